//! The fuzz target for what comes from an AMQP broker: see `crate::fuzz`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::SystemTime;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, parse_frame};
use lapin::BasicProperties;

use super::filter::filtered;
use super::{convert, size};
use crate::broker::failure::{self, Next};
use crate::task::{Failure, Usage};

const FRAME_MAX: usize = 131_072;
const QUEUE: &str = "q";

/// What a broker sends. The first byte says what the others are: a stream of frames, which the filter passes on the same in
/// pieces of any size; or the flags and properties of one message, which lapin can read once they went through the filter,
/// and which can be published again after a failure.
pub fn headers(bytes: &[u8]) {
    let Some((piece, rest)) = bytes.split_first() else { return };
    if piece % 2 == 0 {
        let (in_pieces, _) = filtered(rest, usize::from(piece / 2) + 1, FRAME_MAX);
        let (at_once, _) = filtered(rest, rest.len(), FRAME_MAX);
        assert!(in_pieces.len() <= rest.len());
        assert_eq!(in_pieces, at_once);
        return;
    }
    let frame = content_header(rest);
    let (passed, notices) = filtered(&frame, usize::from(piece / 2) + 1, FRAME_MAX);
    assert_eq!(passed.len(), frame.len());
    for notice in &notices {
        let _ = notice.to_string();
    }
    let (left, read) = parse_frame(passed.as_slice()).expect("lapin can read what went through the filter");
    assert!(left.is_empty());
    let AMQPFrame::Header(_, AMQPContentHeader { properties, .. }) = read else { panic!("no header: {read:?}") };
    converted(&properties);
}

/// A frame with the header of a message, whose flags and properties these are.
fn content_header(bytes: &[u8]) -> Vec<u8> {
    const HEADER: u8 = 2;
    const BASIC: u16 = 60;
    const END: u8 = 0xce;
    let mut payload = Vec::new();
    payload.extend(BASIC.to_be_bytes());
    payload.extend([0; 2]);
    payload.extend(1u64.to_be_bytes());
    let flags = bytes.first_chunk().copied().unwrap_or_default();
    payload.extend::<[u8; 2]>(flags);
    payload.extend(bytes.get(2..).unwrap_or_default());
    let mut frame = vec![HEADER, 0, 1];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame.push(END);
    frame
}

fn converted(original: &BasicProperties) {
    let headers = convert::headers(original);
    convert::field_table(&headers);
    for redelivered in [false, true] {
        let (attempt, unfinished) = convert::attempt(&headers, redelivered, QUEUE);
        assert!(attempt > unfinished || attempt == u32::MAX);
        assert!(redelivered || unfinished <= failure::unfinished(&headers, QUEUE));
        let back = convert::given_back(original, |_| false, QUEUE, unfinished);
        let again = convert::attempt(&convert::headers(&back), false, QUEUE);
        assert_eq!(again, (attempt, unfinished), "a message that is given back is where it was");
    }
    let failure = Failure {
        outcome: "exit",
        exit_code: Some(1),
        error: "the guest exited with 1".into(),
        stderr: "oh".repeat(100),
        guest: "sha256:0".into(),
        attempt: 1,
        at: SystemTime::UNIX_EPOCH,
        usage: Usage::default(),
    };
    for frame_max in [4096, FRAME_MAX] {
        for next in [Next::Retry, Next::DeadLetter] {
            // Each text came out of an AMQP short string.
            let again = convert::republished(original, &failure, QUEUE, next, frame_max).unwrap();
            let Some(again) = again else { continue };
            assert!(size::content_header(&again) <= frame_max);
            if next == Next::Retry {
                let (attempt, _) = convert::attempt(&convert::headers(&again), false, QUEUE);
                assert_eq!(attempt, 2, "a retry counts the failed run");
            }
        }
        if convert::leaves_room(original, QUEUE, frame_max) {
            let retry = convert::republished(original, &failure, QUEUE, Next::Retry, frame_max).unwrap();
            assert!(retry.is_some(), "a retry was promised room");
        }
    }
}
