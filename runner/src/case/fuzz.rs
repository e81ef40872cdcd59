//! For fuzzing: any bytes as a case.

use super::form::Case;
use super::secrets::Secrets;

/// What is read as a case can be written and read again, with its secrets and without them.
pub fn case(bytes: &[u8]) {
    let mut case = match Case::read(bytes) {
        Ok(case) => case,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let written = |case: &Case| serde_json::to_vec(case).unwrap_or_default();
    assert!(Case::read(&written(&case)).is_ok(), "it is not read as it was written");
    if let Some(flags) = &case.flags {
        let _ = flags.limits();
    }
    assert!(case.attempt().number > 0);
    case.withhold(&Secrets::new(["planted-secret".to_owned()]));
    assert!(Case::read(&written(&case)).is_ok(), "it is not read without its secrets");
}
