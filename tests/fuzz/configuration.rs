//! The `config` blocks of tasks and of the plugin: MessagePack from Nomad, or from anybody else.

use nomad_driver_systemd::chain;
use nomad_driver_systemd::task::config::options::{Block, Error, Kind, Opt};
use nomad_driver_systemd::task::config::{DriverConfig, PluginConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rmpv::Value;

use super::corpus::{edited, edits, text};
use super::{computing_time, for_all};

/// A value of any type.
fn value() -> BoxedStrategy<Value> {
    let plain = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
        vec(any::<u8>(), 0..8).prop_map(Value::from),
        (any::<i8>(), vec(any::<u8>(), 0..8)).prop_map(|(kind, bytes)| Value::Ext(kind, bytes)),
        // A string that is not UTF-8.
        vec(any::<u8>(), 0..8).prop_map(|mut bytes| {
            bytes.insert(0, 0xa0 + u8::try_from(bytes.len()).unwrap_or_default());
            rmpv::decode::read_value(&mut &bytes[..]).unwrap_or(Value::Nil)
        }),
    ];
    let nested = plain.prop_recursive(5, 40, 6, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![vec(inner, 0..6).prop_map(Value::Array), vec(pair, 0..6).prop_map(Value::Map)]
    });
    nested.boxed()
}

/// A value that the option accepts.
fn fitting(option: &'static Opt) -> BoxedStrategy<Value> {
    match (option.block, option.hcl_type) {
        (Some(Kind::Once(options)), _) => block(options),
        (Some(Kind::Often(options)), _) => vec(block(options), 0..4).prop_map(Value::Array).boxed(),
        (Some(Kind::Free), _) => vec((text(), text()), 0..4)
            .prop_map(|pairs| {
                Value::Map(pairs.into_iter().map(|(name, text)| (name.into(), text.into())).collect())
            })
            .boxed(),
        (None, "string") => text().prop_map(Value::from).boxed(),
        (None, "bool") => any::<bool>().prop_map(Value::from).boxed(),
        (None, "number") => any::<u32>().prop_map(Value::from).boxed(),
        (None, "list(string)") => vec(text(), 0..4)
            .prop_map(|texts| Value::Array(texts.into_iter().map(Value::from).collect()))
            .boxed(),
        (None, other) => panic!("{} is of the type {other}", option.name),
    }
}

/// A block with some of these options: most fit, and a few are arbitrary.
fn block(options: &'static [Opt]) -> BoxedStrategy<Value> {
    let each: Vec<_> = options
        .iter()
        .map(|option| {
            prop_oneof![
                12 => Just(Value::Nil),
                12 => fitting(option),
                1 => value(),
            ]
            .prop_map(|value| (Value::from(option.name), value))
        })
        .collect();
    let unknown = vec((value(), value()), 0..2);
    (each, unknown)
        .prop_map(|(given, unknown)| Value::Map(given.into_iter().chain(unknown).collect()))
        .boxed()
}

fn bytes_of(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory does not fail");
    bytes
}

fn names_of(options: &[Opt]) -> Vec<&'static str> {
    let inner = |option: &Opt| match option.block {
        Some(Kind::Once(options) | Kind::Often(options)) => names_of(options),
        Some(Kind::Free) | None => Vec::new(),
    };
    options.iter().flat_map(|option| [vec![option.name], inner(option)].concat()).collect()
}

fn check_refusal(options: &[Opt], error: &Error) {
    let words = chain(error);
    let named = names_of(options).iter().any(|name| words.contains(&format!("option `{name}`")));
    assert!(named, "the error names no option: {words}");
}

#[test]
fn the_configuration_of_a_task_is_read_or_refused_by_the_name_of_an_option() {
    let options = DriverConfig::OPTIONS;
    for_all("task-options", 400, &block(options), |config| {
        if let Err(error) = DriverConfig::decode(&bytes_of(&config)) {
            check_refusal(options, &error);
        }
    });
}

#[test]
fn the_configuration_of_the_plugin_is_read_or_refused_by_the_name_of_an_option() {
    let options = PluginConfig::OPTIONS;
    for_all("plugin-options", 700, &block(options), |config| {
        if let Err(error) = PluginConfig::decode(&bytes_of(&config)) {
            check_refusal(options, &error);
        }
    });
}

/// Bytes that are not a configuration, though they may start like one.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    // The markers of everything whose length is declared, with the largest lengths.
    const HUGE: &[&[u8]] = &[
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xc9, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xdc, 0xff, 0xff],
        &[0xde, 0xff, 0xff],
        &[0xd9, 0xff],
        &[0x91],
        &[0x81, 0xa1, b'a'],
        &[0xc1],
    ];
    let huge = || select(HUGE).prop_map(<[u8]>::to_vec);
    let piece = prop_oneof![
        huge(),
        vec(any::<u8>(), 1..4),
        (huge(), 1..3000_usize).prop_map(|(piece, times)| piece.repeat(times))
    ];
    let begin = prop_oneof![
        block(DriverConfig::OPTIONS).prop_map(|config| bytes_of(&config)),
        vec(any::<u8>(), 0..20),
    ];
    (begin, edits(piece, 4)).prop_map(|(begin, edits)| edited(begin, &edits))
}

#[test]
fn damaged_configurations_cost_no_more_than_their_bytes() {
    for_all("damaged-options", 600, &damaged(), |bytes| {
        let time = computing_time(|| {
            let _ = (DriverConfig::decode(&bytes), PluginConfig::decode(&bytes));
        });
        assert!(time.as_millis() < 2000, "{} bytes take {time:?}", bytes.len());
    });
}

#[test]
fn blocks_in_blocks_without_end_are_refused() {
    for marker in
        [&[0x91][..], &[0x81, 0xa1, b'a'], &[0xdd, 0xff, 0xff, 0xff, 0xff], &[0xdf, 0xff, 0xff, 0xff, 0xff]]
    {
        let deep = [&[0x81, 0xa5][..], b"files", &marker.repeat(100_000)].concat();
        assert!(matches!(DriverConfig::decode(&deep), Err(Error::Unreadable)));
    }
}
