/* Tests with no framework: cc -std=c11 -o test test.c -lm && ./test */

#undef NDEBUG
#include <assert.h>
#include <math.h>

/* The program's own `main` stays out of the way. */
#define main guest_main
#include "sum.c"
#undef main

static int calls, last;

static void count(int percent)
{
    calls++;
    assert(percent > last && percent <= 100);
    last = percent;
}

static bool is_range(const char *text)
{
    struct range range;

    return parse_range(text, &range);
}

int main(void)
{
    struct range range;

    assert(parse_range("1 9007199254740992\n", &range) && range.from == 1 && range.to == UINT64_C(1) << 53);
    assert(is_range("7 7"));
    assert(!is_range("") && !is_range("1") && !is_range("1 ") && !is_range(" 1 2") && !is_range("1  2"));
    assert(!is_range("2 1") && !is_range("0 1") && !is_range("-1 2") && !is_range("1 2 3") && !is_range("1 2x"));
    assert(!is_range("1 9007199254740993") && !is_range("1 18446744073709551617") && !is_range("0x1 2"));

    assert(sum((struct range){1, 1}, count) == 1.0 && calls == 1 && last == 100);
    last = 0;
    /* The sum of 1/k^2 over all k is pi^2/6, and what is left after n is about 1/n - 1/(2 n^2). */
    double n = 3e6, pi = acos(-1);
    double whole = sum((struct range){1, (uint64_t)n}, count) + 1 / n - 1 / (2 * n * n);
    assert(fabs(whole - pi * pi / 6) < 1e-15);
    assert(last == 100);
    puts("ok");
    return 0;
}
