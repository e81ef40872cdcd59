//! Images in the format PPM (`P6`), and how one gets smaller. Nothing here needs WASI.

const std = @import("std");

pub const Image = struct {
    width: usize,
    height: usize,
    /// Red, green and blue, row by row.
    pixels: []const u8,
};

pub const Error = error{ NotAnImage, TooLarge, CutShort };

/// An image of this many pixels on a side, and its result, fit into the memory of a guest.
const most_on_a_side = 16384;

/// Reads an image. Its pixels stay where they are.
pub fn parse(bytes: []const u8) Error!Image {
    if (!std.mem.startsWith(u8, bytes, "P6")) return error.NotAnImage;
    var rest = bytes[2..];
    const width = try number(&rest);
    const height = try number(&rest);
    if (try number(&rest) != 255) return error.NotAnImage;
    // One character stands between the head and the pixels.
    if (rest.len == 0 or !std.ascii.isWhitespace(rest[0])) return error.NotAnImage;
    rest = rest[1..];
    if (width == 0 or height == 0) return error.NotAnImage;
    const size = width * height * 3;
    if (rest.len < size) return error.CutShort;
    return .{ .width = width, .height = height, .pixels = rest[0..size] };
}

fn number(rest: *[]const u8) Error!usize {
    var at: usize = 0;
    const text = rest.*;
    while (at < text.len) {
        if (text[at] == '#') {
            while (at < text.len and text[at] != '\n') at += 1;
        } else if (std.ascii.isWhitespace(text[at])) {
            at += 1;
        } else break;
    }
    // The numbers are apart.
    if (at == 0) return error.NotAnImage;
    const begin = at;
    var value: usize = 0;
    while (at < text.len and std.ascii.isDigit(text[at])) : (at += 1) {
        value = value * 10 + (text[at] - '0');
        if (value > most_on_a_side) return error.TooLarge;
    }
    if (at == begin) return error.NotAnImage;
    rest.* = text[at..];
    return value;
}

/// Makes an image so many times smaller: each of its pixels is the mean of a square. What is left at the edges counts, too.
pub fn shrink(allocator: std.mem.Allocator, image: Image, factor: usize) std.mem.Allocator.Error!Image {
    const width = (image.width + factor - 1) / factor;
    const height = (image.height + factor - 1) / factor;
    const pixels = try allocator.alloc(u8, width * height * 3);
    for (0..height) |y| {
        const bottom = @min((y + 1) * factor, image.height);
        for (0..width) |x| {
            const right = @min((x + 1) * factor, image.width);
            var sums = [3]u64{ 0, 0, 0 };
            for (y * factor..bottom) |row| {
                for (x * factor..right) |column| {
                    const at = (row * image.width + column) * 3;
                    for (&sums, image.pixels[at..][0..3]) |*sum, value| sum.* += value;
                }
            }
            const count = (bottom - y * factor) * (right - x * factor);
            for (sums, 0..) |sum, color| pixels[(y * width + x) * 3 + color] = @intCast((sum + count / 2) / count);
        }
    }
    return .{ .width = width, .height = height, .pixels = pixels };
}

test "an image of four pixels becomes their mean" {
    const allocator = std.testing.allocator;
    const image = try parse("P6\n# by hand\n2 2\n255\n" ++ "\x00\x00\xff" ++ "\x02\x00\xff" ++ "\x04\x00\xff" ++ "\x06\x01\xff");
    const small = try shrink(allocator, image, 2);
    defer allocator.free(small.pixels);
    try std.testing.expectEqual(1, small.width);
    try std.testing.expectEqualSlices(u8, "\x03\x00\xff", small.pixels);
}

test "what is left at the edges is a pixel of its own" {
    const allocator = std.testing.allocator;
    const image = try parse("P6 3 1 255\n" ++ "\x00\x00\x00" ++ "\x0a\x0a\x0a" ++ "\x63\x63\x63");
    const small = try shrink(allocator, image, 2);
    defer allocator.free(small.pixels);
    try std.testing.expectEqual(2, small.width);
    try std.testing.expectEqualSlices(u8, "\x05\x05\x05\x63\x63\x63", small.pixels);
}

test "what is no image is refused" {
    for ([_][]const u8{ "", "P5 1 1 255\n\x00", "P6", "P6 1 1 254\nabc", "P6 0 1 255\n", "P6 1 x 255\nabc", "P61 1 255\nabc" }) |bytes| {
        try std.testing.expectError(error.NotAnImage, parse(bytes));
    }
    try std.testing.expectError(error.CutShort, parse("P6 2 2 255\nabc"));
    try std.testing.expectError(error.TooLarge, parse("P6 99999999999999999999 1 255\n"));
}
