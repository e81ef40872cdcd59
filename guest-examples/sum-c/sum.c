/* A part of a large sum: the message "FROM TO" asks for the sum of 1/k^2 over FROM <= k <= TO. The parts of all messages together
 * are pi^2/6. How far it is goes to stderr, which is wq-run's log. */

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter. */
#define BAD_MESSAGE 65
/* EX_TEMPFAIL: wq-run tries the message again. */
#define TRY_AGAIN 75

struct range {
    uint64_t from;
    uint64_t to;
};

/* A number up to 2^53, up to which each is a `double` of its own. Moves the text past it. */
static bool take_number(const char **text, uint64_t *number)
{
    const char *at = *text;

    *number = 0;
    while (*at >= '0' && *at <= '9') {
        *number = *number * 10 + (uint64_t)(*at++ - '0');
        if (*number > UINT64_C(1) << 53)
            return false;
    }
    if (at == *text)
        return false;
    *text = at;
    return true;
}

/* Not scanf, which takes "1 2 and more", and "-1" as a very large number. */
static bool parse_range(const char *text, struct range *range)
{
    if (!take_number(&text, &range->from) || *text++ != ' ' || !take_number(&text, &range->to))
        return false;
    if (*text == '\n')
        text++;
    return *text == '\0' && range->from >= 1 && range->from <= range->to;
}

/* From the smallest term to the largest, with what each addition rounds away kept (Kahan). */
static double sum(struct range range, void (*progress)(int percent))
{
    uint64_t count = range.to - range.from + 1;
    double total = 0, lost = 0;
    int percent = 0;

    for (uint64_t done = 0; done < count; done++) {
        double k = (double)(range.to - done);
        double term = 1 / (k * k) - lost;
        double next = total + term;

        lost = (next - total) - term;
        total = next;
        if (done + 1 == count || (done & 0xfffff) == 0xfffff) {
            int now = (int)((done + 1) * 100 / count);

            if (now / 10 > percent / 10)
                progress(now);
            percent = now;
        }
    }
    return total;
}

static void say_progress(int percent)
{
    fprintf(stderr, "%d %%\n", percent);
}

static int fail(const char *what)
{
    fprintf(stderr, "sum-c: %s: %s\n", what, strerror(errno));
    return TRY_AGAIN;
}

int main(void)
{
    char message[64];
    struct range range;
    size_t length = fread(message, 1, sizeof message - 1, stdin);

    if (ferror(stdin))
        return fail("stdin");
    message[length] = '\0';
    /* A message that fills the buffer is too long to be two numbers; one with a zero in it ends too early. */
    if (strlen(message) != length || !parse_range(message, &range)) {
        fputs("sum-c: the message has to be FROM TO, two numbers from 1 to 2^53\n", stderr);
        return BAD_MESSAGE;
    }
    /* All digits that a double has. fclose writes what is still in the buffer: it must not fail unseen. */
    if (printf("%.17g\n", sum(range, say_progress)) < 0 || fclose(stdout) == EOF)
        return fail("stdout");
    return 0;
}
