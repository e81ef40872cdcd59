// Tests with no framework: c++ -std=c++17 -o test test.cpp && ./test

#undef NDEBUG
#include <cassert>
#include <cstdio>

#include "tile.hpp"

int main()
{
    const auto tile = parse_tile("3/7/0\n");
    assert(tile && tile->zoom == 3 && tile->x == 7 && tile->y == 0);
    assert(parse_tile("0/0/0") && parse_tile("40/1099511627775/0"));
    for (const char *bad : {"", "1", "1/0", "1/0/", "1/0/0/0", "1/2/0", "1/0/2", "41/0/0", "-1/0/0", "1/0/0x", " 1/0/0", "a/b/c"})
        assert(!parse_tile(bad));

    assert(steps(0, 0) == max_steps && steps(-1, 0) == max_steps);
    assert(steps(2, 2) == 1 && steps(0.5, 0.5) < 10);

    const auto pixels = render({0, 0, 0});
    // 0+0i is in the set, the corner is not.
    assert(pixels.size() == 256 * 256 && pixels[128 * 256 + 192] == 0 && pixels[0] != 0);

    const Png png(pixels);
    assert(png.out.substr(0, 16) == std::string("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16));
    // The checksum of an empty IEND is known.
    assert(png.out.substr(png.out.size() - 12) == std::string("\0\0\0\0IEND\xae\x42\x60\x82", 12));
    std::puts("ok");
}
