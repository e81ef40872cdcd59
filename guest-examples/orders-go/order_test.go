package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestAnOrderGetsItsSums(t *testing.T) {
	const message = `{"id":"o-1","currency":"EUR","lines":[{"article":"nut","quantity":100,"price":7},{"article":"bolt","quantity":1,"price":250}]}`
	const want = `{"id":"o-1","currency":"EUR","lines":[` +
		`{"article":"nut","quantity":100,"price":7,"sum":700},` +
		`{"article":"bolt","quantity":1,"price":250,"sum":250}],"total":950}` + "\n"
	var stdout, stderr bytes.Buffer
	if code := run(strings.NewReader(message), &stdout, &stderr); code != 0 || stdout.String() != want {
		t.Errorf("ended with %d, stdout %s, stderr %s", code, &stdout, &stderr)
	}
}

func TestABadOrderEndsWith65AndSaysWhy(t *testing.T) {
	line := func(fields string) string {
		return `{"id":"o-1","currency":"EUR","lines":[{` + fields + `}]}`
	}
	for message, why := range map[string]string{
		"":                                   "not an order",
		"[]":                                 "not an order",
		`{"id":"o-1"`:                        "not an order",
		`{"id":"o-1","colour":"red"}`:        "colour",
		`{"currency":"EUR"}`:                 "no id",
		`{"id":"o-1","currency":"Euro"}`:     "no currency",
		`{"id":"o-1","currency":"EUR"}`:      "no lines",
		line(`"quantity":1,"price":1`) + "x": "follows",
		line(`"quantity":1,"price":1`):       "no article",
		line(`"article":"nut","price":1`):    "quantity 0",
		line(`"article":"nut","quantity":1,"price":-1`):                                  "price -1",
		line(`"article":"nut","quantity":1,"price":0.5`):                                 "not an order",
		line(`"article":"nut","quantity":2,"price":9223372036854775807`):                 "larger",
		line(`"article":"nut","quantity":1,"price":99999999999999999999999999999999999`): "not an order",
	} {
		var stdout, stderr bytes.Buffer
		code := run(strings.NewReader(message), &stdout, &stderr)
		if code != badMessage || stdout.Len() > 0 || !strings.Contains(stderr.String(), why) {
			t.Errorf("%s: ended with %d, stdout %q, stderr %q", message, code, &stdout, &stderr)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, bytes.ErrTooLarge }
func (broken) Write([]byte) (int, error) { return 0, bytes.ErrTooLarge }

func TestWhatIsNotTheMessagesFaultIsTriedAgain(t *testing.T) {
	var stderr bytes.Buffer
	if code := run(broken{}, &stderr, &stderr); code != tryAgain {
		t.Errorf("ended with %d", code)
	}
	message := strings.NewReader(`{"id":"o-1","currency":"EUR","lines":[{"article":"nut","quantity":1,"price":1}]}`)
	if code := run(message, broken{}, &stderr); code != tryAgain {
		t.Errorf("ended with %d", code)
	}
}
