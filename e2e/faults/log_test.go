//go:build faults

package faults

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// clientLog is the log of Nomad's client, read as it grows, to tens of megabytes in a long soak.
type clientLog struct {
	mu   sync.Mutex
	at   int64
	half string // the beginning of a line that is not whole yet
	// said has the lines that name an allocation by the first eight digits of its ID, and under "" those of plugins' ends.
	said map[string][]clientLine
}

type clientLine struct {
	number int64
	text   string
}

var clientSaid = clientLog{said: map[string][]clientLine{}}

// of is what the log says of an allocation, and of the ends of plugins.
func (l *clientLog) of(alloc string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.follow()
	if err != nil {
		return "", err
	}
	lines := slices.Clone(l.said[""])
	if alloc != "" {
		lines = append(lines, l.said[alloc[:8]]...)
	}
	slices.SortStableFunc(lines, func(a, b clientLine) int { return int(a.number - b.number) })
	var text strings.Builder
	for _, line := range slices.Compact(lines) {
		text.WriteString("   " + line.text)
	}
	return text.String(), nil
}

func (l *clientLog) follow() error {
	file, err := os.Open(filepath.Join(shared.Dir, "logs", "client.log"))
	if err != nil {
		return err
	}
	defer file.Close()
	more, err := io.ReadAll(io.NewSectionReader(file, l.at, 1<<62-l.at))
	if err != nil {
		return err
	}
	number := l.at
	l.at += int64(len(more))
	text := l.half + string(more)
	l.half = text[strings.LastIndexByte(text, '\n')+1:]
	for line := range strings.Lines(strings.TrimSuffix(text, l.half)) {
		number++
		for _, name := range slices.Compact(allocIDs.FindAllString(line, -1)) {
			l.said[name[:8]] = append(l.said[name[:8]], clientLine{number, line})
		}
		if strings.Contains(line, "plugin exited") {
			l.said[""] = append(l.said[""], clientLine{number, line})
		}
	}
	return nil
}

// allocIDs finds the beginnings of allocations' IDs: in the IDs themselves, and in names that the driver makes of them.
var allocIDs = regexp.MustCompile(`\b[0-9a-f]{8}-`)
