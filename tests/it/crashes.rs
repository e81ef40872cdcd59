//! Crashes that can be understood: where they happened, and how the guest's language calls them.

use crate::harness::queue::on_every_queue;
use crate::harness::{component, concurrent, guest, run, wq_run};

const WHERE: [&str; 2] = ["thread", "process"];

#[test]
fn a_trap_says_in_which_functions_it_happened() {
    const STACK: &str = "stack: task::parse <- middle <- main";
    for path in [guest("crash"), component("crash"), concurrent("crash")] {
        for isolation in WHERE {
            let crashed = run(&mut wq_run(&["exec", &path, "--isolation", isolation]));
            crashed.exits(134).says("unreachable").says("stack: task::parse").says("<- middle <- ");
        }
    }
    on_every_queue(|queue| {
        queue.publish(&["task"]);
        run(&mut queue.command(&["work", &guest("crash"), "--max-attempts", "1"])).exits(65).says(STACK);
        let dead = queue.take_dead();
        assert!(dead.headers["x-wq-error"].ends_with(STACK), "{dead:?}");
        assert_eq!(dead.headers["x-wq-outcome"], "trap");
    });
    // A stack that is too deep has the same functions all the way.
    run(&mut wq_run(&["exec", &guest("deep")])).exits(134).says("--max-wasm-stack");
}

#[test]
fn a_language_that_aborts_by_an_impossible_exit_code_is_understood() {
    for isolation in WHERE {
        let aborted = run(&mut wq_run(&["exec", &guest("abort"), "--isolation", isolation]));
        aborted.exits(134).says("it aborted").says("AssemblyScript").says("Index out of range in task.ts(114,42)");
        // Without these words it is what it was.
        run(&mut wq_run(&["exec", &guest("exit-200"), "--isolation", isolation]))
            .exits(134)
            .says("invalid exit status");
    }
}

#[test]
fn what_an_exit_code_stands_for_is_said_once() {
    const NO_CODE: &str = "wq-run-exit: CODE";
    const GO: &str = "how a Go program ends that panicked";
    on_every_queue(|queue| {
        let work = |path: &str, isolation: &str| {
            queue.publish(&["a", "b", "c"]);
            let args = ["work", path, "--drain", "--max-attempts", "1", "--isolation", isolation];
            let worked = run(&mut queue.command(&args));
            worked.exits(65);
            for _ in 0..3 {
                queue.take_dead();
            }
            worked.stderr
        };
        for isolation in WHERE {
            let told = |path: &str, text: &str| work(path, isolation).matches(text).count();
            assert_eq!(told(&component("fail"), NO_CODE), 1);
            assert_eq!(told(&guest("go-panic"), GO), 1);
            // A module has its own codes, a component that said its code knows how, and one for WASI 0.3 could have.
            assert_eq!(told(&guest("fail"), NO_CODE), 0);
            assert_eq!(told(&component("say-exit"), NO_CODE), 0);
            assert_eq!(told(&concurrent("fail"), NO_CODE), 0);
            assert_eq!(told(&component("go-panic"), GO), 0);
        }
    });
}
