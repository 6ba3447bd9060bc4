package record

import (
	"strconv"
	"strings"
)

// LastMessage is the last message of an OCI runtime's log: runc writes logfmt, runsc JSON objects without line
// breaks. Of any other log it is the last line.
func LastMessage(log string) string {
	log = strings.TrimSpace(log)
	for _, key := range []string{`{"msg":`, ` msg=`} {
		at := strings.LastIndex(log, key)
		if at < 0 {
			continue
		}
		quoted, err := strconv.QuotedPrefix(log[at+len(key):])
		if err == nil {
			text, _ := strconv.Unquote(quoted)
			return text
		}
	}
	return log[strings.LastIndexByte(log, '\n')+1:]
}
