//! The errors of SQS, sorted in one place: what to do about each of them.

use serde::Deserialize;

use crate::broker::error::Error;

/// What SQS says instead of an answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub status: u16,
    /// Without its namespace: `QueueDoesNotExist`.
    pub code: String,
    pub message: String,
}

/// What a refusal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The same request may be answered a moment later.
    Passes,
    /// Other keys are needed.
    Stale,
    Credentials,
    Right,
    MissingQueue,
    /// A receipt handle that is no good any more.
    NotHeld,
    TooLarge,
    /// All else: the request can never be answered.
    Wrong,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "__type", alias = "code", alias = "Code", default)]
    code: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl Refusal {
    /// Reads the body of an answer that is no success. What is not JSON comes from something between us and SQS.
    pub fn read(status: u16, body: &[u8]) -> Refusal {
        let body: Body = serde_json::from_slice(body).unwrap_or_else(|_| {
            let start: String = String::from_utf8_lossy(body).chars().take(200).collect();
            Body { code: format!("HTTP {status}"), message: start }
        });
        let code = body.code.rsplit('#').next().unwrap_or_default();
        let code = if code.is_empty() { format!("HTTP {status}") } else { code.to_owned() };
        Refusal { status, code, message: body.message }
    }

    /// One entry of a batch, which has no status of its own.
    pub fn of_entry(code: &str, message: Option<&str>) -> Refusal {
        let code = code.rsplit('#').next().unwrap_or_default().to_owned();
        Refusal { status: 400, code, message: message.unwrap_or_default().to_owned() }
    }

    pub fn sort(&self) -> Sort {
        // The older protocol's names have a prefix: `AWS.SimpleQueueService.NonExistentQueue`.
        let code = self.code.rsplit('.').next().unwrap_or_default();
        let says = |text: &str| self.message.contains(text);
        match code {
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Sort::Stale,
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "RequestExpired"
            | "RequestTimeTooSkewed"
            | "AuthFailure"
            | "InvalidSecurity"
            | "NotAuthorized" => Sort::Credentials,
            "AccessDenied"
            | "AccessDeniedException"
            | "KmsAccessDenied"
            | "KmsDisabled"
            | "KmsInvalidKeyUsage"
            | "KmsInvalidState"
            | "KmsNotFound"
            | "KmsOptInRequired"
            | "OptInRequired" => Sort::Right,
            "QueueDoesNotExist" | "NonExistentQueue" => Sort::MissingQueue,
            "MessageNotInflight" | "ReceiptHandleIsInvalid" => Sort::NotHeld,
            "InvalidParameterValue" | "InvalidParameterValueException"
                if says("visibility timeout change") || says("receipt handle has expired") || says("ReceiptHandle") =>
            {
                Sort::NotHeld
            }
            "BatchRequestTooLong" | "MessageTooLong" => Sort::TooLarge,
            "InvalidParameterValue" | "InvalidParameterValueException" if says("shorter than") => Sort::TooLarge,
            // So many messages are in flight that no more are handed out.
            "OverLimit" => Sort::Passes,
            "RequestThrottled"
            | "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "KmsThrottled"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "SlowDown"
            | "RequestTimeout"
            | "QueueDeletedRecently"
            | "InternalError"
            | "InternalFailure"
            | "ServiceUnavailable" => Sort::Passes,
            _ if self.status >= 500 || self.status == 429 || self.status == 408 => Sort::Passes,
            _ => Sort::Wrong,
        }
    }

    /// Whether SQS says that it did nothing, so that a message can be sent again without becoming two.
    pub fn was_throttled(&self) -> bool {
        self.status == 429
            || self.status == 503
            || self.code.contains("Thrott")
            || self.code == "TooManyRequestsException"
    }

    /// In the words of all brokers.
    pub fn into_error(self, address: &str, doing: &str, queue: &str) -> Error {
        let (doing, queue) = (doing.to_owned(), queue.to_owned());
        match self.sort() {
            Sort::Passes => Error::Unavailable { queue, source: self.into() },
            Sort::Stale | Sort::Credentials => Error::Credentials { address: address.to_owned(), source: self.into() },
            Sort::Right => Error::Forbidden { doing, source: self.into() },
            Sort::MissingQueue => Error::MissingQueue { queue, source: Some(self.into()) },
            Sort::NotHeld => Error::Broken { reason: self.to_string() },
            Sort::TooLarge => Error::TooLarge { reason: self.to_string() },
            Sort::Wrong => Error::Mismatch { doing, source: self.into() },
        }
    }
}

/// Whether the same request may be answered a moment later.
pub fn passes(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::Unreachable { .. } | Error::Unanswered { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Refusal {
        Refusal::read(status, body.as_bytes())
    }

    #[test]
    fn each_refusal_is_sorted_by_what_can_be_done_about_it() {
        let table = [
            (400, r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no"}"#, Sort::MissingQueue),
            (400, r#"{"__type":"AWS.SimpleQueueService.NonExistentQueue"}"#, Sort::MissingQueue),
            (403, r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"no"}"#, Sort::Right),
            (403, r#"{"__type":"com.amazon.coral.service#ExpiredTokenException"}"#, Sort::Stale),
            (403, r#"{"__type":"InvalidSignatureException","message":"Signature expired"}"#, Sort::Credentials),
            (400, r#"{"__type":"com.amazonaws.sqs#RequestThrottled"}"#, Sort::Passes),
            (400, r#"{"__type":"com.amazonaws.sqs#OverLimit"}"#, Sort::Passes),
            (503, "<html>", Sort::Passes),
            (413, "<html>", Sort::Wrong),
            (400, r#"{"__type":"com.amazonaws.sqs#MessageNotInflight"}"#, Sort::NotHeld),
            (400, r#"{"__type":"com.amazonaws.sqs#UnsupportedOperation"}"#, Sort::Wrong),
            (400, "{}", Sort::Wrong),
        ];
        for (status, body, sort) in table {
            assert_eq!(refused(status, body).sort(), sort, "{body}");
        }
    }

    #[test]
    fn an_entry_of_a_batch_says_by_its_text_that_a_message_is_somebody_elses() {
        let said = "Value AQ for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for \
                    visibility timeout change.";
        assert_eq!(Refusal::of_entry("InvalidParameterValue", Some(said)).sort(), Sort::NotHeld);
        assert_eq!(Refusal::of_entry("InvalidParameterValue", Some("DelaySeconds")).sort(), Sort::Wrong);
    }

    #[test]
    fn only_a_throttled_message_is_sent_again() {
        assert!(refused(400, r#"{"__type":"com.amazonaws.sqs#RequestThrottled"}"#).was_throttled());
        assert!(refused(503, "").was_throttled());
        assert!(!refused(500, "").was_throttled());
    }
}
