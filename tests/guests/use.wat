;; Takes 16 MiB of memory in all and computes for a moment. Then it does what the first byte of its message says: `f` exits 1,
;; `d` exits 3, `s` computes forever, `n` says "started" on stderr, sleeps for 1.5 seconds and goes on as with anything
;; else, which is echoed.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "started\n")
  (data (i32.const 32) "\10\00\00\00\08\00\00\00")
  (func (export "_start") (local $first i32) (local $left i32)
    (if (i32.eq (memory.grow (i32.const 255)) (i32.const -1)) (then unreachable))
    (local.set $left (i32.const 200000000))
    (loop $again
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (local.set $first (i32.load8_u (i32.const 1024)))
    (if (i32.eq (local.get $first) (i32.const 102)) (then (call $proc_exit (i32.const 1))))
    (if (i32.eq (local.get $first) (i32.const 100)) (then (call $proc_exit (i32.const 3))))
    (if (i32.eq (local.get $first) (i32.const 115)) (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $first) (i32.const 110))
      (then
        (drop (call $fd_write (i32.const 2) (i32.const 32) (i32.const 1) (i32.const 40)))
        (i32.store (i32.const 80) (i32.const 1))
        (i64.store (i32.const 88) (i64.const 1500000000))
        (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200)))))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))))
