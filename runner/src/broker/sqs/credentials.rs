//! Who we are to AWS: one source of credentials, kept and renewed in time.
//!
//! Other clients go on to the next source when one fails. A pod whose own role can't be had would then work with the role of
//! its node, which may do more. So the source is chosen by what is set, once, and if it fails that is the error.

use std::time::{Duration, SystemTime};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::result::ConnectorError;
use tokio::sync::Mutex;

use crate::broker::error::Error;
use crate::causes::chain;

pub type Keys = aws_credential_types::Credentials;

/// New credentials are asked for so long before the old ones end.
const EARLY: Duration = Duration::from_secs(5 * 60);

/// For all requests that one source makes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

pub struct Credentials {
    source: Source,
    provider: SharedCredentialsProvider,
    address: String,
    kept: Mutex<Option<Keys>>,
}

/// What is set says where credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// AWS_ACCESS_KEY_ID and its companions.
    Environment,
    /// The one that AWS_PROFILE names.
    Profile,
    /// AWS_WEB_IDENTITY_TOKEN_FILE: a service account of EKS.
    WebIdentity,
    /// AWS_CONTAINER_CREDENTIALS_*: EKS Pod Identity, ECS.
    Container,
    /// The profile `default`, or the role of the machine if there is none.
    Machine,
}

impl Source {
    fn chosen(variable: impl Fn(&str) -> Option<String>) -> Source {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        if is_set("AWS_ACCESS_KEY_ID") || is_set("AWS_SECRET_ACCESS_KEY") {
            Source::Environment
        } else if is_set("AWS_PROFILE") {
            Source::Profile
        } else if is_set("AWS_WEB_IDENTITY_TOKEN_FILE") {
            Source::WebIdentity
        } else if is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI") || is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            Source::Container
        } else {
            Source::Machine
        }
    }

    fn provider(self, config: &ProviderConfig) -> SharedCredentialsProvider {
        let profile = || ProfileFileCredentialsProvider::builder().configure(config).build();
        match self {
            Source::Environment => SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()),
            Source::Profile => SharedCredentialsProvider::new(profile()),
            Source::WebIdentity => {
                SharedCredentialsProvider::new(WebIdentityTokenCredentialsProvider::builder().configure(config).build())
            }
            Source::Container => {
                SharedCredentialsProvider::new(EcsCredentialsProvider::builder().configure(config).build())
            }
            Source::Machine => SharedCredentialsProvider::new(
                CredentialsProviderChain::first_try("profile", profile())
                    .or_else("machine", ImdsCredentialsProvider::builder().configure(config).build()),
            ),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Source::Environment => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            Source::Profile => "the profile that AWS_PROFILE names",
            Source::WebIdentity => "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN",
            Source::Container => "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            Source::Machine => "the profile `default`, or the role of the machine",
        }
    }
}

impl Credentials {
    pub fn new(config: &ProviderConfig, address: String) -> Credentials {
        let source = Source::chosen(|name| std::env::var(name).ok());
        Credentials { source, provider: source.provider(config), address, kept: Mutex::new(None) }
    }

    /// Those that are kept, or new ones if those end soon.
    ///
    /// # Errors
    /// When there are none, or none that are still good.
    pub async fn get(&self) -> Result<Keys, Error> {
        let mut kept = self.kept.lock().await;
        let ends_within = |keys: &Keys, time: Duration| keys.expiry().is_some_and(|end| end < SystemTime::now() + time);
        if let Some(keys) = kept.as_ref().filter(|keys| !ends_within(keys, EARLY)) {
            return Ok(keys.clone());
        }
        let made = tokio::time::timeout(ANSWER_TIMEOUT, self.provider.provide_credentials()).await;
        let made = made.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(ANSWER_TIMEOUT)));
        match (made, kept.as_ref()) {
            (Ok(made), _) => Ok(kept.insert(made).clone()),
            (Err(error), Some(keys)) if !ends_within(keys, Duration::ZERO) => {
                let source = self.source.name();
                tracing::warn!(error = %chain(&error), source, "there are no new credentials; the old ones are still good");
                Ok(keys.clone())
            }
            (Err(error), _) => Err(self.failed(error)),
        }
    }

    /// AWS does not take these any more, whatever was said of their end.
    pub async fn forget(&self, refused: &Keys) {
        self.kept.lock().await.take_if(|kept| kept == refused);
    }

    fn failed(&self, error: CredentialsError) -> Error {
        let from = |error: CredentialsError| format!("{}: {}", self.source.name(), chain(&error)).into();
        match error {
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                Error::NoCredentials { source: from(error) }
            }
            CredentialsError::ProviderTimedOut(_) => self.unreachable(from(error)),
            error if is_unreachable(&error) => self.unreachable(from(error)),
            error => Error::Credentials { address: self.address.clone(), source: from(error) },
        }
    }

    fn unreachable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::Unreachable { address: self.address.clone(), source }
    }
}

/// Whether nobody answered who gives credentials.
fn is_unreachable(error: &CredentialsError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectorError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_credentials_is_chosen_by_what_is_set() {
        let chosen = |set: &[&str]| Source::chosen(|name| set.contains(&name).then(|| "set".to_owned()));
        assert_eq!(chosen(&[]), Source::Machine);
        assert_eq!(chosen(&["AWS_ROLE_ARN"]), Source::Machine);
        assert_eq!(chosen(&["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]), Source::Container);
        assert_eq!(chosen(&["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"]), Source::WebIdentity);
        assert_eq!(chosen(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE"]), Source::Profile);
        assert_eq!(chosen(&["AWS_PROFILE", "AWS_ACCESS_KEY_ID"]), Source::Environment);
        // Half of a pair is a mistake, and no reason to look elsewhere.
        assert_eq!(chosen(&["AWS_SECRET_ACCESS_KEY"]), Source::Environment);
    }
}
