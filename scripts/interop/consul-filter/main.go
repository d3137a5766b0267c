// Writes random filter expressions, and what go-bexpr makes of them for a few objects:
//
//	go run . COUNT SEED > ../../../crates/consul/src/filter_cases.jsonl
//
// Each line is {"expression": TEXT, "matches": [BOOL, ...]}, or with "matches": null if the expression is refused. The
// first line has the objects.
package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"

	bexpr "github.com/hashicorp/go-bexpr"
)

type address struct {
	Address string
	Port    int
}

type weights struct {
	Passing int
	Warning int
}

type service struct {
	Node                     string
	NodeMeta                 map[string]string
	ServiceName              string
	ServiceTags              []string
	ServiceMeta              map[string]string
	ServicePort              int
	ServiceTaggedAddresses   map[string]address
	ServiceWeights           weights
	ServiceEnableTagOverride bool
	ModifyIndex              uint64
}

var objects = []service{
	{
		Node: "box-1", NodeMeta: map[string]string{"rack": "r1"}, ServiceName: "web",
		ServiceTags: []string{"v1", "primary", "a b"}, ServiceMeta: map[string]string{"k": "v", "x.y": "z"},
		ServicePort:            80,
		ServiceTaggedAddresses: map[string]address{"lan": {"10.0.0.1", 80}},
		ServiceWeights:         weights{3, 1}, ServiceEnableTagOverride: true, ModifyIndex: 7,
	},
	{
		Node: "", NodeMeta: map[string]string{}, ServiceName: "web-é", ServiceTags: []string{},
		ServiceMeta: map[string]string{}, ServicePort: 0, ServiceTaggedAddresses: map[string]address{},
		ServiceWeights: weights{1, 1}, ModifyIndex: 18446744073709551615,
	},
	{
		Node: "box", NodeMeta: map[string]string{"rack": "", "k": "v"}, ServiceName: "v1",
		ServiceTags: []string{"80", "true", "v1"}, ServiceMeta: map[string]string{"k": "true"}, ServicePort: 8080,
		ServiceTaggedAddresses: map[string]address{"lan": {"", 0}, "wan": {"h", 1}}, ServiceWeights: weights{80, 0},
		ModifyIndex: 1,
	},
}

var random *rand.Rand

func one(options ...string) string { return options[random.Intn(len(options))] }

func selector() string {
	return one("Node", "ServiceName", "ServiceTags", "ServiceMeta", "ServiceMeta.k", `ServiceMeta["x.y"]`,
		"ServiceMeta[ `k` ]", "NodeMeta.rack", "NodeMeta", "ServicePort", "ServiceWeights.Passing", "ServiceWeights",
		"ServiceTaggedAddresses", "ServiceTaggedAddresses.lan.Port", "ServiceTaggedAddresses.lan.Address",
		"ServiceTaggedAddresses.wan", "ServiceEnableTagOverride", "ModifyIndex", "Unknown", "ServiceName.x", "serviceName",
		"not", "ServiceMeta.")
}

func value() string {
	return one("web", "v1", "k", "v", "lan", "true", "1", "80", "-1", "0x50", "08", "0", "1.5", "80.", `"80"`, `"v1"`,
		"`a b`", `""`, `"web-\u00e9"`, `"\x77eb"`, `"^w.b"`, `"("`, "rack", `"a\"b"`, "`x.y`", "r1", `"1_0"`, "x.y", "8 0",
		`"18446744073709551615"`, `"true"`, `"\q"`, `"`)
}

func space() string { return one("", " ", "  ", "\t", "\n") }

func comparison() string {
	switch random.Intn(5) {
	case 0:
		return selector() + one(" is empty", " is not empty", " is  not empty", " isempty")
	case 1:
		return value() + one(" in ", " not in ", "in ", " not  in ") + selector()
	default:
		operator := one("==", "!=", " == ", " != ", " contains ", " not contains ", " matches ", " not matches ", " = ")
		return selector() + operator + value()
	}
}

func expression(depth int) string {
	if depth == 0 || random.Intn(3) == 0 {
		return comparison()
	}
	switch random.Intn(5) {
	case 0:
		return one("not ", "not\t", "not") + expression(depth-1)
	case 1:
		return "(" + space() + expression(depth-1) + space() + one(")", ")", ")", ")", "")
	default:
		return expression(depth-1) + one(" and ", " or ", "  and\n", "and ", " or") + expression(depth-1)
	}
}

type result struct {
	Expression string `json:"expression"`
	Matches    []bool `json:"matches"`
}

func main() {
	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	seed, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		panic(err)
	}
	random = rand.New(rand.NewSource(seed))
	lines := json.NewEncoder(os.Stdout)
	lines.SetEscapeHTML(false)
	if err := lines.Encode(map[string]any{"objects": objects}); err != nil {
		panic(err)
	}
	accepted := 0
	for made := 0; made < count; {
		text := space() + expression(3) + space()
		evaluator, err := bexpr.CreateEvaluatorForType(text, nil, objects[0])
		// Most random expressions are refused; half of the cases are accepted ones.
		if err != nil && (made-accepted)*2 >= count {
			continue
		}
		line := result{Expression: text}
		if err == nil {
			line.Matches = []bool{}
			for _, object := range objects {
				matches, err := evaluator.Evaluate(object)
				if err != nil {
					panic(fmt.Sprint(text, ": ", err))
				}
				line.Matches = append(line.Matches, matches)
			}
			accepted++
		}
		if strings.ContainsRune(text, '\ufffd') {
			continue
		}
		if err := lines.Encode(line); err != nil {
			panic(err)
		}
		made++
	}
}
