// Renders a tile of the Mandelbrot set: the message is "ZOOM/X/Y", as of a map, and the result is a PNG.

#include <cstdio>
#include <string>

#include "tile.hpp"

namespace {

// EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter.
constexpr int bad_message = 65;
// EX_TEMPFAIL: wq-run tries the message again.
constexpr int try_again = 75;

int fail(const char *what)
{
    std::perror(what);
    return try_again;
}

} // namespace

// <cstdio> and not <iostream>, which makes a small guest six times as large.
int main()
{
    std::string message;
    char buffer[4096];
    for (std::size_t length; (length = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;)
        message.append(buffer, length);
    if (std::ferror(stdin))
        return fail("mandelbrot-cpp: stdin");
    const auto tile = parse_tile(message);
    if (!tile) {
        std::fprintf(stderr, "mandelbrot-cpp: the message has to be ZOOM/X/Y, a zoom up to %u\n", max_zoom);
        return bad_message;
    }
    const Png png(render(*tile));
    // fclose writes what is still in the buffer: it must not fail unseen.
    if (std::fwrite(png.out.data(), 1, png.out.size(), stdout) != png.out.size() || std::fclose(stdout) == EOF)
        return fail("mandelbrot-cpp: stdout");
    return 0;
}
