package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
)

// order is what comes in.
type order struct {
	ID       string `json:"id"`
	Currency string `json:"currency"`
	Lines    []line `json:"lines"`
}

type line struct {
	Article  string `json:"article"`
	Quantity int64  `json:"quantity"`
	// Price is for one, in the currency's smallest unit: money is never a fraction.
	Price int64 `json:"price"`
}

// pricedOrder is what goes out.
type pricedOrder struct {
	ID       string       `json:"id"`
	Currency string       `json:"currency"`
	Lines    []pricedLine `json:"lines"`
	Total    int64        `json:"total"`
}

type pricedLine struct {
	line
	Sum int64 `json:"sum"`
}

// badOrder says what is wrong with an order. Another try cannot help.
type badOrder struct{ what string }

func (bad *badOrder) Error() string { return bad.what }

func badf(format string, args ...any) error {
	return &badOrder{fmt.Sprintf(format, args...)}
}

// price checks an order and adds its sums.
func price(message []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(message))
	// A field that nobody knows is a mistake of whoever wrote it, and better found here than later.
	decoder.DisallowUnknownFields()
	var in order
	if err := decoder.Decode(&in); err != nil {
		return nil, badf("not an order: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, badf("something follows the order")
	}
	switch {
	case in.ID == "":
		return nil, badf("there is no id")
	case len(in.Currency) != 3:
		return nil, badf("%q is no currency", in.Currency)
	case len(in.Lines) == 0:
		return nil, badf("there are no lines")
	}
	out := pricedOrder{ID: in.ID, Currency: in.Currency, Lines: make([]pricedLine, 0, len(in.Lines))}
	for i, line := range in.Lines {
		switch {
		case line.Article == "":
			return nil, badf("line %d names no article", i+1)
		case line.Quantity < 1:
			return nil, badf("line %d has the quantity %d", i+1, line.Quantity)
		case line.Price < 0:
			return nil, badf("line %d has the price %d", i+1, line.Price)
		case line.Price > (math.MaxInt64-out.Total)/line.Quantity:
			return nil, badf("line %d makes the order larger than it can be", i+1)
		}
		sum := line.Quantity * line.Price
		out.Total += sum
		out.Lines = append(out.Lines, pricedLine{line, sum})
	}
	return json.Marshal(out)
}
