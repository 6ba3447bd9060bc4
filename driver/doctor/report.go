package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// status is the exit status: 1 if anything fails.
func status(findings []Finding) int {
	for _, f := range findings {
		if f.Verdict == verdictFail {
			return 1
		}
	}
	return 0
}

func writeJSON(w io.Writer, findings []Finding) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(findings)
}

// writeText groups findings under their areas, with what to do below what is not ok.
func writeText(w io.Writer, findings []Finding) error {
	var out bytes.Buffer
	heading, count := "", map[string]int{}
	for _, f := range findings {
		count[f.Verdict]++
		if f.Area != heading {
			heading = f.Area
			fmt.Fprintf(&out, "\n%s\n", heading)
		}
		fmt.Fprintf(&out, "  %-4s  %-20s %s\n", f.Verdict, f.Name, oneLine(f.Seen))
		if f.Fix != "" {
			fmt.Fprintf(&out, "        %-20s fix: %s\n", "", oneLine(f.Fix))
		}
	}
	fmt.Fprintf(&out, "\n%d fail, %d warn, %d ok\n", count[verdictFail], count[verdictWarn], count[verdictOK])
	_, err := w.Write(bytes.TrimPrefix(out.Bytes(), []byte("\n")))
	return err
}

// oneLine keeps what files and programs of others say from moving the terminal's cursor.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
}
