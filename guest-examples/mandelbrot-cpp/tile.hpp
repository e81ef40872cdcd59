// A tile of the Mandelbrot set as a PNG. Nothing here needs WASI, so the tests run it natively.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// As of a map: at zoom 0 one tile shows it all, and each zoom divides it in four.
struct Tile {
    unsigned zoom = 0;
    std::uint64_t x = 0, y = 0;
};

constexpr unsigned max_zoom = 40; // deeper, neighbouring points would be the same `double`
constexpr unsigned side = 256;
constexpr unsigned max_steps = 1000;

// "ZOOM/X/Y". Exceptions are not needed for this, nor is a locale: std::from_chars.
inline std::optional<Tile> parse_tile(std::string_view text)
{
    if (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    std::array<std::uint64_t, 3> numbers{};
    const char *at = text.data(), *const end = at + text.size();
    for (std::size_t i = 0; i < numbers.size(); i++) {
        if (i > 0 && (at == end || *at++ != '/'))
            return std::nullopt;
        const auto [next, error] = std::from_chars(at, end, numbers[i]);
        if (error != std::errc{})
            return std::nullopt;
        at = next;
    }
    if (at != end || numbers[0] > max_zoom || (numbers[1] | numbers[2]) >> numbers[0] != 0)
        return std::nullopt;
    return Tile{static_cast<unsigned>(numbers[0]), numbers[1], numbers[2]};
}

// How many steps a point takes to leave, at most max_steps: those never do.
inline unsigned steps(double cx, double cy)
{
    double x = 0, y = 0;
    unsigned n = 0;
    while (n < max_steps && x * x + y * y <= 4) {
        const double next = x * x - y * y + cx;
        y = 2 * x * y + cy;
        x = next;
        n++;
    }
    return n;
}

// A byte for each pixel: 0 inside of the set, else a colour by the steps.
inline std::vector<std::uint8_t> render(const Tile &tile)
{
    std::vector<std::uint8_t> pixels(std::size_t{side} * side);
    // The square from -2.25-1.5i, three units wide.
    const double width = 3.0 / static_cast<double>(std::uint64_t{1} << tile.zoom);
    const double left = -2.25 + static_cast<double>(tile.x) * width, top = -1.5 + static_cast<double>(tile.y) * width;
    for (unsigned row = 0; row < side; row++) {
        for (unsigned column = 0; column < side; column++) {
            const unsigned n = steps(left + (column + 0.5) * width / side, top + (row + 0.5) * width / side);
            pixels[std::size_t{row} * side + column] = n == max_steps ? 0 : static_cast<std::uint8_t>(1 + n % 255);
        }
    }
    return pixels;
}

// What a PNG is made of: a library would be larger than the rest of the program.
class Png {
public:
    explicit Png(const std::vector<std::uint8_t> &pixels)
    {
        out = "\x89PNG\r\n\x1a\n";
        // Eight bits for each pixel, an index into a palette; no interlacing.
        chunk("IHDR", number(side) + number(side) + std::string("\x08\x03\x00\x00\x00", 5));
        std::string palette;
        for (unsigned i = 0; i < 256; i++) {
            palette += static_cast<char>(i == 0 ? 0 : 9 * i);
            palette += static_cast<char>(i == 0 ? 0 : 5 * i);
            palette += static_cast<char>(i == 0 ? 0 : 255 - i);
        }
        chunk("PLTE", palette);
        std::string rows;
        for (unsigned row = 0; row < side; row++) {
            rows += '\0'; // no filter
            rows.append(reinterpret_cast<const char *>(pixels.data()) + std::size_t{row} * side, side);
        }
        chunk("IDAT", stored(rows));
        chunk("IEND", "");
    }

    std::string out;

private:
    static std::string number(std::uint32_t n)
    {
        return {static_cast<char>(n >> 24), static_cast<char>(n >> 16), static_cast<char>(n >> 8), static_cast<char>(n)};
    }

    static std::uint32_t crc(std::string_view bytes)
    {
        std::uint32_t sum = ~0U;
        for (const unsigned char byte : bytes) {
            sum ^= byte;
            for (int bit = 0; bit < 8; bit++)
                sum = sum >> 1 ^ (sum & 1 ? 0xedb88320U : 0);
        }
        return ~sum;
    }

    void chunk(std::string_view name, std::string_view data)
    {
        out += number(static_cast<std::uint32_t>(data.size()));
        const std::size_t begin = out.size();
        out += name;
        out += data;
        out += number(crc(std::string_view(out).substr(begin)));
    }

    // The format of zlib with blocks that are not compressed.
    static std::string stored(std::string_view data)
    {
        constexpr std::size_t most = 65535;
        std::uint32_t a = 1, b = 0;
        for (const unsigned char byte : data) {
            a = (a + byte) % 65521;
            b = (b + a) % 65521;
        }
        std::string out("\x78\x01");
        for (std::size_t at = 0; at < data.size(); at += most) {
            const std::string_view block = data.substr(at, most);
            const auto length = static_cast<std::uint16_t>(block.size());
            out += static_cast<char>(at + most >= data.size());
            for (const unsigned half : {unsigned{length}, ~unsigned{length}}) {
                out += static_cast<char>(half);
                out += static_cast<char>(half >> 8);
            }
            out += block;
        }
        return out + number(b << 16 | a);
    }
};
