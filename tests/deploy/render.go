// Renders the chart with Go's text/template, which is Helm's own engine, and the few of Helm's functions that the chart uses.
// Usage: go run render.go CHART_FOLDER VALUES.json, the values already merged over values.yaml. Prints all manifests.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"
)

func yaml(v any, indent string) string {
	switch x := v.(type) {
	case map[string]any:
		if len(x) == 0 {
			return "{}"
		}
		keys := []string{}
		for k := range x {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		lines := []string{}
		for _, k := range keys {
			below := yaml(x[k], indent+"  ")
			if m, ok := x[k].(map[string]any); ok && len(m) > 0 {
				lines = append(lines, k+":\n"+indent+"  "+below)
			} else if l, ok := x[k].([]any); ok && len(l) > 0 {
				lines = append(lines, k+":\n"+indent+"  "+below)
			} else {
				lines = append(lines, k+": "+below)
			}
		}
		return strings.Join(lines, "\n"+indent)
	case []any:
		if len(x) == 0 {
			return "[]"
		}
		lines := []string{}
		for _, item := range x {
			lines = append(lines, "- "+yaml(item, indent+"  "))
		}
		return strings.Join(lines, "\n"+indent)
	}
	text, _ := json.Marshal(v)
	return string(text)
}

func number(v any) int {
	switch x := v.(type) {
	case int:
		return x
	case float64:
		return int(x)
	}
	panic(fmt.Sprintf("%v is no number", v))
}

func main() {
	var data map[string]any
	text, err := os.ReadFile(os.Args[2])
	check(err)
	check(json.Unmarshal(text, &data))
	all := template.New("").Option("missingkey=zero")
	all.Funcs(template.FuncMap{
		"toYaml": func(v any) string { return yaml(v, "") },
		"nindent": func(n int, s string) string {
			pad := strings.Repeat(" ", n)
			return "\n" + pad + strings.ReplaceAll(s, "\n", "\n"+pad)
		},
		"quote":     func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"sha256sum": func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
		"default": func(d, v any) any {
			if v == nil || v == "" {
				return d
			}
			return v
		},
		"add": func(xs ...any) int {
			sum := 0
			for _, x := range xs {
				sum += number(x)
			}
			return sum
		},
		"div": func(a, b any) int { return number(a) / number(b) },
		"include": func(name string, v any) (string, error) {
			var out bytes.Buffer
			err := all.ExecuteTemplate(&out, name, v)
			return out.String(), err
		},
	})
	files, err := filepath.Glob(filepath.Join(os.Args[1], "templates", "*"))
	check(err)
	_, err = all.ParseFiles(files...)
	check(err)
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "_") || name == "NOTES.txt" {
			continue
		}
		fmt.Println("---")
		check(all.ExecuteTemplate(os.Stdout, name, data))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
