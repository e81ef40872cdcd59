//! Makes an image smaller. The message is a PPM, and so is the result; the argument is how many times smaller.

const std = @import("std");
const image = @import("image.zig");

/// EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter.
const bad_message = 65;
/// EX_TEMPFAIL: wq-run tries the message again.
const try_again = 75;
/// EX_USAGE: the command line is wrong.
const usage = 64;

pub fn main(init: std.process.Init) u8 {
    return run(init) catch |err| {
        const code: u8 = switch (err) {
            error.NotAnImage, error.TooLarge, error.CutShort => bad_message,
            error.Usage => usage,
            else => try_again,
        };
        std.log.err("{t}", .{err});
        return code;
    };
}

fn run(init: std.process.Init) !u8 {
    // What a run allocates goes away with it: wq-run makes a new instance for each message.
    const arena = init.arena.allocator();
    const args = try init.minimal.args.toSlice(arena);
    const factor = if (args.len < 2) 2 else std.fmt.parseInt(u16, args[1], 10) catch return error.Usage;
    if (factor == 0) return error.Usage;

    var read_buffer: [64 * 1024]u8 = undefined;
    var stdin: std.Io.File.Reader = .init(.stdin(), init.io, &read_buffer);
    const message = try stdin.interface.allocRemaining(arena, .unlimited);
    const small = try image.shrink(arena, try image.parse(message), factor);

    var write_buffer: [64 * 1024]u8 = undefined;
    var stdout: std.Io.File.Writer = .init(.stdout(), init.io, &write_buffer);
    try stdout.interface.print("P6\n{d} {d}\n255\n", .{ small.width, small.height });
    try stdout.interface.writeAll(small.pixels);
    // What is still in the buffer when the program ends would be lost.
    try stdout.interface.flush();
    return 0;
}
