/* The worker of the Kubernetes page "Coarse Parallel Processing Using a Work Queue":
 * one message on stdin, one line on stdout. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* EX_TEMPFAIL of sysexits.h: wq-run tries the message again. */
#define TRY_AGAIN 75

static int fail(const char *what)
{
    fprintf(stderr, "processing-c: %s: %s\n", what, strerror(errno));
    return TRY_AGAIN;
}

/* A message is bytes, not text, and of any size: it comes out as it went in. */
int main(void)
{
    static char buffer[64 * 1024];
    size_t length;

    if (fputs("Processing ", stdout) == EOF)
        return fail("stdout");
    while ((length = fread(buffer, 1, sizeof buffer, stdin)) > 0) {
        if (fwrite(buffer, 1, length, stdout) != length)
            return fail("stdout");
    }
    if (ferror(stdin))
        return fail("stdin");
    /* fclose writes what is still in the buffer: it must not fail unseen. */
    if (putchar('\n') == EOF || fclose(stdout) == EOF)
        return fail("stdout");
    return 0;
}
