//! What a consumer asks of its broker, and what it does where it does not get it.

use crate::harness::queue::{Broker, Queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run, start};

#[test]
fn a_consumer_asks_for_as_much_time_as_its_runs_may_take() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let table: [(&[&str], &str); 3] = [
        // Never less than the broker's own.
        (&["--timeout", "1m"], "1800000"),
        (&["--timeout", "2h"], "7500000"),
        // The fourth message waits for two others.
        (&["--timeout", "2h", "--prefetch", "4", "--concurrency", "2"], "14700000"),
    ];
    on_rabbitmq(|queue| {
        for (flags, milliseconds) in table {
            let mut command = queue.command(&["work", &guest("echo"), "--forever"]);
            let mut service = start(command.args(flags).env("RUST_LOG", "info,wq_run=debug"));
            service.wait_for("subscribed");
            let consumers = rabbitmq.ctl(&["list_consumers", "queue_name", "arguments"]);
            let ours = consumers.lines().find(|line| line.starts_with(&format!("{}\t", queue.name)));
            let ours = ours.unwrap_or_else(|| panic!("no consumer of {}:\n{consumers}", queue.name));
            assert!(ours.contains("x-consumer-timeout") && ours.contains(milliseconds), "{flags:?}: {ours}");
            service.signal("TERM");
            service.end().exits(0);
        }
    });
}

/// Makes a node know `x-consumer-timeout` as an argument for consumers of quorum queues, as RabbitMQ 4.3 does. It then
/// refuses it for those of classic queues.
const KNOWS_THE_ARGUMENT: &str = r#"
    Module = rabbit_quorum_queue,
    {ok, {_, [{abstract_code, {_, Forms}}]}} = beam_lib:chunks(code:which(Module), [abstract_code]),
    {ok, Tokens, _} = erl_scan:string(
        "capabilities() -> M = old_capabilities(),"
        " M#{consumer_arguments := [<<\"x-consumer-timeout\">> | maps:get(consumer_arguments, M)]}."),
    {ok, New} = erl_parse:parse_form(Tokens),
    Renamed = lists:map(fun ({function, Line, capabilities, 0, Clauses}) ->
                                {function, Line, old_capabilities, 0, Clauses};
                            (Form) -> Form
                        end, Forms),
    {Before, End} = lists:splitwith(fun (Form) -> element(1, Form) =/= eof end, Renamed),
    {ok, Module, Binary} = compile:forms(Before ++ [New | End], [nowarn_unused_function]),
    code:purge(Module),
    {module, Module} = code:load_binary(Module, "patched", Binary)."#;

#[test]
fn a_broker_that_refuses_the_argument_is_asked_without_it() {
    let Some(rabbitmq) = RabbitMq::start() else { return };
    rabbitmq.ctl(&["eval", KNOWS_THE_ARGUMENT]);
    let classic = Queue::new(Broker::Classic(&rabbitmq));
    let refused = crate::harness::queue::on_channel(&rabbitmq, async |channel| {
        let mut arguments = lapin::types::FieldTable::default();
        arguments.insert("x-consumer-timeout".into(), lapin::types::AMQPValue::LongLongInt(1));
        channel.basic_consume(classic.name.as_str().into(), "".into(), Default::default(), arguments).await.is_err()
    });
    assert!(refused, "this broker does not refuse the argument");
    for queue in [&classic, &Queue::new(Broker::Quorum(&rabbitmq))] {
        queue.publish(&["taken"]);
        run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("taken");
    }
}
