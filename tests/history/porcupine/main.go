// Porcupine's verdict on histories of one register: the reference for tests/history/linear.py.
//
// Standard input: a JSON array of histories, each an array of operations. Standard output: one word a line.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

type operation struct {
	Kind     string
	Start    int64
	End      int64 // -1: never answered
	Value    int64
	Expected int64
	Output   int64 // what a read or an addition told; 1 or 0 of a comparison
}

func step(state, input, output interface{}) (bool, interface{}) {
	held, one := state.(int64), input.(operation)
	answered := one.End >= 0
	switch one.Kind {
	case "read":
		return !answered || held == one.Output, held
	case "write":
		return true, one.Value
	case "add":
		return !answered || held+one.Value == one.Output, held + one.Value
	case "cas":
		if held == one.Expected {
			return !answered || one.Output == 1, one.Value
		}
		return !answered || one.Output == 0, held
	}
	panic(one.Kind)
}

func main() {
	var histories [][]operation
	if err := json.NewDecoder(bufio.NewReader(os.Stdin)).Decode(&histories); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	model := porcupine.Model{
		Init: func() interface{} { return int64(0) },
		Step: step,
	}
	for _, history := range histories {
		var told []porcupine.Operation
		for number, one := range history {
			end := one.End
			if end < 0 {
				end = 1 << 60
			}
			told = append(told, porcupine.Operation{ClientId: number, Input: one, Call: one.Start, Return: end})
		}
		switch porcupine.CheckOperationsTimeout(model, told, 20*time.Second) {
		case porcupine.Ok:
			fmt.Println("ok")
		case porcupine.Illegal:
			fmt.Println("illegal")
		default:
			fmt.Println("unknown")
		}
	}
}
