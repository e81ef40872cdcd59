// Command orders checks an order, which is its message as JSON, and prints it as the next program wants it: with a line's prices
// multiplied and summed up. An order that is wrong can never become right, so it ends with 65.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	// badMessage is EX_DATAERR of sysexits.h: wq-run makes the message a dead letter.
	badMessage = 65
	// tryAgain is EX_TEMPFAIL: wq-run tries the message again.
	tryAgain = 75
)

func main() {
	os.Exit(run(os.Stdin, os.Stdout, os.Stderr))
}

func run(stdin io.Reader, stdout, stderr io.Writer) int {
	message, err := io.ReadAll(stdin)
	if err != nil {
		fmt.Fprintln(stderr, "orders-go: stdin:", err)
		return tryAgain
	}
	priced, err := price(message)
	if err != nil {
		fmt.Fprintln(stderr, "orders-go:", err)
		var bad *badOrder
		if errors.As(err, &bad) {
			return badMessage
		}
		return tryAgain
	}
	if _, err := stdout.Write(append(priced, '\n')); err != nil {
		fmt.Fprintln(stderr, "orders-go: stdout:", err)
		return tryAgain
	}
	return 0
}
