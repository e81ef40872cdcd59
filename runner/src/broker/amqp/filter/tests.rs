//! The filter, given frames of every kind, whole, damaged and cut anywhere.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic};
use amq_protocol::types::{AMQPValue, FieldTable};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

const FRAME_MAX: usize = 131_072;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, 1], size.as_slice(), payload, &[0xce]].concat()
}

/// A content header with these bytes after its fixed fields.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    frame(2, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], flags.to_be_bytes().as_slice(), properties].concat())
}

/// A content header whose table of headers holds these bytes.
fn headers(entries: &[u8]) -> Vec<u8> {
    header(1 << 13, &[(entries.len() as u32).to_be_bytes().as_slice(), entries].concat())
}

fn written(frame: &AMQPFrame) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    let (_, length) = gen_frame(frame)(WriteContext::from(bytes.as_mut_slice())).unwrap().into_inner();
    bytes.truncate(length as usize);
    bytes
}

/// What lapin reads of one frame, and what was said of it.
fn read(bytes: &[u8]) -> (AMQPFrame, Vec<Notice>) {
    let (passed, notices) = filtered(bytes, bytes.len(), FRAME_MAX);
    assert_eq!(passed.len(), bytes.len());
    let (rest, frame) = parse_frame(passed.as_slice()).unwrap();
    assert_eq!(rest, b"");
    (frame, notices)
}

fn properties(bytes: &[u8]) -> (BasicProperties, Changes) {
    let (frame, notices) = read(bytes);
    let AMQPFrame::Header(_, AMQPContentHeader { properties, .. }) = frame else { panic!("{frame:?}") };
    (properties, notices.first().map_or(Changes::default(), |notice| notice.changes))
}

const TEXT: Changes = Changes { text: true, depth: false, malformed: false };
const DEPTH: Changes = Changes { text: false, depth: true, malformed: false };
const MALFORMED: Changes = Changes { text: false, depth: false, malformed: true };

#[test]
fn text_in_latin_1_becomes_text_of_the_same_length() {
    let (properties, changes) = properties(&header(1 << 15, b"\x05caf\xe9s"));
    assert_eq!((properties.content_type().as_ref().unwrap().as_str(), changes), ("caf?s", TEXT));
    let (properties, changes) = self::properties(&headers(b"\x05gr\xf6\xdfeV"));
    assert!(properties.headers().as_ref().unwrap().contains_key("gr??e"));
    assert_eq!(changes, TEXT);
}

#[test]
fn a_value_that_may_hold_any_bytes_keeps_them() {
    let bytes = headers(b"\x01aS\x00\x00\x00\x02\xff\xfe\x01bx\x00\x00\x00\x01\xff");
    assert_eq!(filtered(&bytes, bytes.len(), FRAME_MAX), (bytes.clone(), vec![]));
}

#[test]
fn a_message_id_that_is_not_text_is_none() {
    // Two of them could become the same text, and the result of one would take the place of the other's.
    for (flags, bytes) in [
        (1 << 7, b"\x04caf\xe9".as_slice()),
        (1 << 8 | 1 << 7, b"\x021000000000"[..3].iter().chain(b"\x04caf\xe9").copied().collect::<Vec<_>>().as_slice()),
    ] {
        let (frame, notices) = read(&header(flags | 1 << 5, &[bytes, b"\x04kind"].concat()));
        let AMQPFrame::Header(_, AMQPContentHeader { properties, .. }) = frame else { panic!("{frame:?}") };
        assert_eq!(*properties.message_id(), None);
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "kind");
        assert_eq!(notices, [Notice { changes: TEXT, message_id: Some("caf\u{fffd}".into()) }]);
    }
}

/// Tables within each other, this many, the outermost included.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    let mut entries = vec![];
    for _ in 1..depth {
        let name: &[u8] = if kind == b'F' { b"\x01k" } else { b"" };
        entries = [name, &[kind], &(entries.len() as u32).to_be_bytes(), &entries].concat();
    }
    if kind == b'A' {
        entries.splice(0..0, *b"\x01k");
    }
    headers(&entries)
}

#[test]
fn tables_and_arrays_within_each_other_are_bounded() {
    let deepest_in_a_frame = (FRAME_MAX - 40) / 7;
    for kind in [b'F', b'A'] {
        let (_, changes) = properties(&nested(MAX_DEPTH, kind));
        assert_eq!(changes, Changes::default());
        for depth in [MAX_DEPTH + 1, 3_000, deepest_in_a_frame] {
            let (properties, changes) = properties(&nested(depth, kind));
            assert_eq!(changes, DEPTH, "{depth} of {}", char::from(kind));
            let mut depth = 1;
            let mut value = AMQPValue::FieldTable(properties.headers().clone().unwrap());
            loop {
                value = match value {
                    AMQPValue::FieldTable(table) => table.inner().values().next().unwrap().clone(),
                    AMQPValue::FieldArray(array) => array.as_slice()[0].clone(),
                    AMQPValue::ByteArray(_) => break,
                    other => panic!("{other:?}"),
                };
                depth += 1;
            }
            assert_eq!(depth, MAX_DEPTH + 1);
        }
    }
}

#[test]
fn what_is_no_amqp_becomes_bytes_and_the_rest_stays() {
    // A type that nobody knows, in the outermost table and in one within it; the entries before them stay.
    let (properties, changes) = properties(&headers(b"\x01aI\0\0\0\x07\x01bZ12345678"));
    let table = properties.headers().clone().unwrap();
    assert_eq!((table.inner().get("a"), changes), (Some(&AMQPValue::LongInt(7)), MALFORMED));
    assert_eq!(table.inner().get("?"), Some(&AMQPValue::ByteArray(b"5678"[..].into())));
    let (properties, changes) = self::properties(&headers(b"\x01aF\0\0\0\x04\x01bZ1\x01cV"));
    let table = properties.headers().clone().unwrap();
    assert_eq!((table.inner().get("c"), changes), (Some(&AMQPValue::Void), MALFORMED));
    assert_eq!(table.inner().get("a"), Some(&AMQPValue::ByteArray(b"\x01bZ1"[..].into())));
}

#[test]
fn a_routing_key_in_latin_1_is_said_together_with_its_message() {
    let deliver = [b"\0\x3c\0\x3c\x01t".as_slice(), &[0; 9], b"\x01e\x02k\xff"].concat();
    let message = header(1 << 7, b"\x02id");
    let (passed, notices) = filtered(&[frame(1, &deliver), message].concat(), 5, FRAME_MAX);
    let (_, method) = parse_frame(passed.as_slice()).unwrap();
    let AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) = method else {
        panic!("{method:?}")
    };
    assert_eq!((deliver.exchange.as_str(), deliver.routing_key.as_str()), ("e", "k?"));
    assert_eq!(notices, [Notice { changes: TEXT, message_id: Some("id".into()) }]);
}

#[test]
fn other_messages_with_foreign_keys_and_answers_are_readable() {
    for payload in [
        [b"\0\x3c\0\x47".as_slice(), &[0; 9], b"\x01\xff\x01\xff\0\0\0\0"].concat(),
        b"\0\x3c\0\x32\x01\x38\x01\xff\x01\xff\x01\xff".to_vec(),
        b"\0\x0a\0\x32\x01\x38\x01\xff\0\0\0\0".to_vec(),
        b"\0\x14\0\x28\x01\x38\x01\xff\0\0\0\0".to_vec(),
        b"\0\x0a\0\x3c\x01\xff".to_vec(),
        b"\0\x0a\0\x0a\0\x09\0\0\0\x03\x01\xffV\0\0\0\x01\xff\0\0\0\x01\xff".to_vec(),
        b"\0\x32\0\x0b\x01\xff\0\0\0\0\0\0\0\0".to_vec(),
    ] {
        read(&frame(1, &payload));
    }
}

#[test]
fn the_protocol_header_of_a_broker_that_refuses_ours_passes() {
    let (passed, notices) = filtered(b"AMQP\0\0\x09\x01", 1, FRAME_MAX);
    assert_eq!((passed.as_slice(), notices), (b"AMQP\0\0\x09\x01".as_slice(), vec![]));
}

#[test]
fn a_frame_is_not_held_beyond_its_bound() {
    let mut filter = Filter::new(4096);
    let mut bytes = [frame(8, b""), vec![2, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0]].concat();
    assert_eq!(filter.pass(&mut bytes), 8);
    assert_eq!(filter.refused(), Some(Refused::Damaged(0x7fff_ffff + 8)));
}

#[test]
fn headers_that_are_too_large_are_told_from_a_damaged_length() {
    for (head, refused) in [
        ([2, 0, 1, 0, 2, 0, 0], Refused::TooLarge((2 << 16) + 8)),
        ([2, 0, 1, 0xff, 0xff, 0xff, 0xff], Refused::Damaged(0xffff_ffff + 8)),
        ([1, 0, 1, 0, 2, 0, 0], Refused::Damaged((2 << 16) + 8)),
    ] {
        let mut filter = Filter::new(4096);
        filter.pass(&mut head.clone());
        assert_eq!(filter.refused(), Some(refused));
    }
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        vec(any::<u8>(), 0..20).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        vec(any::<u8>(), 0..20).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|values| AMQPValue::FieldArray(values.into())),
            table_of(inner).prop_map(AMQPValue::FieldTable),
        ]
    })
}

fn table_of(values: impl Strategy<Value = AMQPValue>) -> impl Strategy<Value = FieldTable> {
    btree_map(".{0,8}", values, 0..6).prop_map(|entries| {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert(name.into(), value);
        }
        table
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    (table_of(value()), ".{0,20}", any::<u64>(), vec(any::<u8>(), 0..200)).prop_map(|(table, text, time, body)| {
        let properties = BasicProperties::default()
            .with_headers(table)
            .with_content_type(text.clone().into())
            .with_message_id(text.into())
            .with_timestamp(time);
        let header = AMQPContentHeader { class_id: 60, body_size: body.len() as u64, properties };
        let frames = [AMQPFrame::Header(1, header), AMQPFrame::Body(1, body), AMQPFrame::Heartbeat];
        frames.iter().flat_map(written).collect()
    })
}

proptest! {
    #[test]
    fn what_lapin_can_read_passes_unchanged(stream in message(), piece in 1usize..400) {
        prop_assert_eq!(filtered(&stream, piece, FRAME_MAX), (stream, vec![]));
    }

    #[test]
    fn any_bytes_pass_in_any_pieces_and_none_is_added_or_lost(
        stream in vec(any::<u8>(), 0..600), piece in 1usize..40,
    ) {
        let (passed, _) = filtered(&stream, piece, FRAME_MAX);
        let (whole, _) = filtered(&stream, stream.len(), FRAME_MAX);
        // The frame that is not complete is held.
        prop_assert!(passed.len() <= stream.len());
        prop_assert_eq!(passed, whole);
    }

    #[test]
    fn whatever_a_header_holds_lapin_can_read_it(flags: u16, bytes in vec(any::<u8>(), 0..600)) {
        read(&header(flags, &bytes));
    }

    #[test]
    fn whatever_a_table_holds_lapin_can_read_it(
        entries in vec((vec(any::<u8>(), 0..4), prop::sample::select(b"tbBsuUIiflLdTDVSxFAZ".to_vec()), 0u32..12), 0..40),
        noise in vec(any::<u8>(), 0..20),
    ) {
        let mut table = Vec::new();
        for (name, kind, length) in entries {
            table.push(name.len() as u8);
            table.extend(name);
            table.push(kind);
            table.extend(length.to_be_bytes());
        }
        table.extend(noise);
        let (_, notices) = read(&headers(&table));
        prop_assert!(notices.len() <= 1);
    }

    #[test]
    fn a_damaged_message_is_readable(mut stream in message(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let size = u32::from_be_bytes([stream[3], stream[4], stream[5], stream[6]]) as usize;
        for (at, byte) in damage {
            let at = HEAD + at.index(size);
            stream[at] = byte;
        }
        read(&stream[..HEAD + size + TAIL]);
    }
}
