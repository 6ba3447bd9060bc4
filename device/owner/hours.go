package owner

import (
	"fmt"
	"strings"
	"time"
)

// Hours are when GPUs are offered. None means always.
type Hours []span

// span is one rule: from and to are minutes of the day; a span that ends before it begins goes on into the next day.
type span struct {
	days     [7]bool
	from, to int
}

// ParseHours reads rules such as "22:00-08:00", "Mon-Fri 18:00-08:00" and "Sat,Sun".
func ParseHours(rules []string) (Hours, error) {
	var h Hours
	for _, rule := range rules {
		s, err := parseSpan(rule)
		if err != nil {
			return nil, fmt.Errorf(`cannot read hours %q: %w; write "Mon-Fri 18:00-08:00"`, rule, err)
		}
		h = append(h, s)
	}
	return h, nil
}

func parseSpan(rule string) (span, error) {
	s := span{to: 24 * 60}
	words := strings.Fields(rule)
	if len(words) == 0 || len(words) > 2 {
		return s, fmt.Errorf("want days, a time span, or both")
	}
	if strings.Contains(words[0], ":") {
		words = append([]string{"Mon-Sun"}, words...)
	}
	if len(words) > 2 {
		return s, fmt.Errorf("want days first")
	}
	err := s.parseDays(words[0])
	if err != nil || len(words) == 1 {
		return s, err
	}
	from, to, found := strings.Cut(words[1], "-")
	if !found {
		return s, fmt.Errorf("a time span needs an end")
	}
	s.from, err = minutes(from)
	if err != nil {
		return s, err
	}
	s.to, err = minutes(to)
	if err == nil && s.from == s.to {
		err = fmt.Errorf("the span is empty")
	}
	return s, err
}

func (s *span) parseDays(list string) error {
	for _, part := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := weekday(first), weekday(last)
		if from < 0 || to < 0 {
			return fmt.Errorf("unknown day in %q", part)
		}
		for d := from; ; d = (d + 1) % 7 {
			s.days[d] = true
			if d == to {
				break
			}
		}
	}
	return nil
}

func weekday(name string) int {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if strings.EqualFold(d.String(), name) || strings.EqualFold(d.String()[:3], name) {
			return int(d)
		}
	}
	return -1
}

// minutes reads 00:00 to 24:00.
func minutes(clock string) (int, error) {
	if clock == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", clock)
	if err != nil {
		return 0, fmt.Errorf("%q is no time of day", clock)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// Offered tells whether now, in its own time zone, lies within the hours.
func (h Hours) Offered(now time.Time) bool {
	if len(h) == 0 {
		return true
	}
	day, minute := int(now.Weekday()), now.Hour()*60+now.Minute()
	for _, s := range h {
		if s.to > s.from && s.days[day] && minute >= s.from && minute < s.to {
			return true
		}
		yesterday := (day + 6) % 7
		if s.to < s.from && (s.days[day] && minute >= s.from || s.days[yesterday] && minute < s.to) {
			return true
		}
	}
	return false
}
