// Command testsummary reads what `bazel test` and `go test -json` have left and closes with one line:
// N passed, N failed, N skipped, after a label if there is one. It counts single test cases. A skip is
// a failure unless its reason contains a line of the file of allowed ones.
package main

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

type result struct {
	name    string
	outcome string // pass, fail, skip
	text    string // why
}

func main() {
	logs := flag.String("bazel-logs", "", "bazel-testlogs directory")
	targets := flag.String("bazel-targets", "", "file with the test targets, one a line")
	bazelStatus := flag.Int("bazel-status", 0, "exit code of bazel test")
	goJSON := flag.String("go-json", "", "output of go test -json")
	goStatus := flag.Int("go-status", 0, "exit code of go test")
	guest := flag.String("guest", "", "directory that e2e/guest/suite has left its results in")
	allowed := flag.String("allowed-skips", "", "file of reasons for which a test may be skipped")
	label := flag.String("label", "", "what the last line begins with")
	flag.Parse()

	var results []result
	if *logs != "" {
		results = append(results, atLeastOneFailure("bazel test", *bazelStatus, bazelResults(*logs, lines(*targets)))...)
	}
	if *goJSON != "" {
		results = append(results, atLeastOneFailure("go test", *goStatus, goResults(*goJSON))...)
	}
	if *guest != "" {
		results = append(results, guestResults(*guest)...)
	}
	os.Exit(report(*label, results, lines(*allowed)))
}

// atLeastOneFailure makes sure that a command that failed shows as a failure, whatever was read.
func atLeastOneFailure(command string, status int, results []result) []result {
	if status == 0 {
		return results
	}
	for _, r := range results {
		if r.outcome == "fail" {
			return results
		}
	}
	return append(results, result{command, "fail", fmt.Sprintf("exit code %d", status)})
}

// guestResults are those of the unit tests and of the end-to-end tests that ran in the guest.
func guestResults(directory string) []result {
	status := func(name string) int {
		code := 125
		if data, err := os.ReadFile(filepath.Join(directory, name)); err == nil {
			fmt.Sscan(string(data), &code)
		}
		return code
	}
	var results []result
	if targets := lines(filepath.Join(directory, "targets")); len(targets) > 0 {
		results = append(results, atLeastOneFailure("unit tests", status("units-status"), bazelResults(directory, targets))...)
	}
	if _, err := os.Stat(filepath.Join(directory, "pods.json")); err == nil {
		results = append(results, atLeastOneFailure("end-to-end tests", status("pods-status"), goResults(filepath.Join(directory, "pods.json")))...)
	}
	for i := range results {
		results[i].name = "guest: " + results[i].name
	}
	if len(results) == 0 {
		results = append(results, result{"guest", "fail", "it has left no results"})
	}
	return results
}

// lines of a file, without comments and empty ones.
func lines(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(2)
	}
	var all []string
	for _, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// A report of GoogleTest, or the one that Bazel writes for a test that makes none.
type xmlReport struct {
	Suites []struct {
		Name  string `xml:"name,attr"`
		Cases []struct {
			Name     string    `xml:"name,attr"`
			Status   string    `xml:"status,attr"`
			Failures []message `xml:"failure"`
			Errors   []message `xml:"error"`
			Skipped  *message  `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

type message struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func bazelResults(logs string, targets []string) []result {
	var results []result
	for _, target := range targets {
		path := strings.ReplaceAll(strings.TrimPrefix(target, "//"), ":", "/")
		files, _ := filepath.Glob(filepath.Join(logs, path, "test.xml"))
		shards, _ := filepath.Glob(filepath.Join(logs, path, "*", "test.xml"))
		files = append(files, shards...)
		if len(files) == 0 {
			results = append(results, result{target, "fail", "was not built or not run"})
		}
		for _, file := range files {
			results = append(results, readXML(target, file)...)
		}
	}
	return results
}

func readXML(target, file string) []result {
	data, err := os.ReadFile(file)
	var report xmlReport
	if err == nil {
		err = xml.Unmarshal(data, &report)
	}
	if err != nil {
		return []result{{target, "fail", err.Error()}}
	}
	var results []result
	for _, suite := range report.Suites {
		for _, c := range suite.Cases {
			r := result{target + " " + suite.Name + "." + c.Name, "pass", ""}
			problems := append(c.Failures, c.Errors...)
			if c.Status == "notrun" && strings.HasPrefix(c.Name, "DISABLED_Child") {
				continue // the child half of another case, which runs it by its name
			}
			switch {
			case len(problems) > 0:
				r.outcome, r.text = "fail", problems[0].Message
			case c.Skipped != nil:
				r.outcome, r.text = "skip", c.Skipped.Message+c.Skipped.Text
			case c.Status == "notrun":
				r.outcome, r.text = "skip", "disabled"
			}
			results = append(results, r)
		}
	}
	if len(results) == 0 {
		results = append(results, result{target, "fail", "holds no test case"})
	}
	return results
}

func goResults(path string) []result {
	file, err := os.Open(path)
	if err != nil {
		return []result{{"go test", "fail", err.Error()}}
	}
	defer file.Close()
	var results []result
	output := map[string]string{}
	parents := map[string]bool{} // tests that are made of others are counted by those
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var event struct{ Action, Package, Test, ImportPath, Output string }
		if json.Unmarshal(scanner.Bytes(), &event) != nil {
			results = append(results, result{"go test", "fail", scanner.Text()})
			continue
		}
		name := strings.TrimSuffix(event.Package+" "+event.Test, " ")
		switch event.Action {
		case "output", "build-output":
			output[name+event.ImportPath] += event.Output
		case "pass", "skip", "fail":
			if event.Test == "" {
				// A package without tests is "skipped"; one that does not build or crashes fails.
				if event.Action == "fail" {
					results = append(results, result{name, "package", output[name]})
				}
				continue
			}
			if i := strings.LastIndex(name, "/"); i > len(event.Package) {
				parents[name[:i]] = true
			}
			results = append(results, result{name, event.Action, output[name]})
		}
	}
	return withoutParents(results, parents)
}

func withoutParents(results []result, parents map[string]bool) []result {
	var kept []result
	failed := false
	for _, r := range results {
		failed = failed || r.outcome == "fail"
		if !parents[r.name] || r.outcome == "fail" {
			kept = append(kept, r)
		}
	}
	for i := range kept {
		if kept[i].outcome == "package" {
			kept[i].outcome = "fail"
			if failed { // its tests tell already
				kept[i].outcome = "told"
			}
		}
	}
	return kept
}

func report(label string, results []result, allowed []string) int {
	sort.SliceStable(results, func(i, j int) bool { return results[i].name < results[j].name })
	passed, failed, skipped := 0, 0, 0
	for _, r := range results {
		switch r.outcome {
		case "pass":
			passed++
		case "fail":
			failed++
			fmt.Printf("\nFAILED %s\n%s\n", r.name, indent(r.text))
		case "skip":
			if isAllowed(r.text, allowed) {
				skipped++
				fmt.Printf("skipped %s: %s\n", r.name, strings.TrimSpace(r.text))
			} else {
				failed++
				fmt.Printf("\nFAILED %s\nskipped for a reason that is no property of the kernel:\n%s\n", r.name, indent(r.text))
			}
		}
	}
	if label != "" {
		label += ": "
	}
	fmt.Printf("%s%d passed, %d failed, %d skipped\n", label, passed, failed, skipped)
	if failed > 0 || passed == 0 {
		return 1
	}
	return 0
}

func isAllowed(reason string, allowed []string) bool {
	for _, property := range allowed {
		if strings.Contains(reason, property) {
			return true
		}
	}
	return false
}

func indent(text string) string {
	const limit = 12000
	if len(text) > limit {
		text = "..." + text[len(text)-limit:]
	}
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}
