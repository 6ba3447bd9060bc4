package record

import (
	"strconv"
	"strings"
)

// field is one line of a record: a name and where its value lies, a pointer to string, []string, int, int64,
// uint64 or bool. The same list encodes and decodes. It is no JSON because encoding/json's caches would be a third
// of the shim's memory.
type field struct {
	name  string
	value any
}

// encode writes a line per field that is not zero; a list is a line per element.
func encode(fields []field) []byte {
	var text []byte
	line := func(name, value string) {
		text = append(text, name...)
		text = append(text, ' ')
		text = append(text, value...)
		text = append(text, '\n')
	}
	for _, f := range fields {
		switch v := f.value.(type) {
		case *[]string:
			for _, element := range *v {
				line(f.name, strconv.Quote(element))
			}
		default:
			value := format(v)
			if value != "" {
				line(f.name, value)
			}
		}
	}
	return text
}

// format is a value's text, or "" for the zero value.
func format(value any) string {
	text := ""
	switch v := value.(type) {
	case *string:
		text = strconv.Quote(*v)
	case *int:
		text = strconv.Itoa(*v)
	case *int64:
		text = strconv.FormatInt(*v, 10)
	case *uint64:
		text = strconv.FormatUint(*v, 10)
	case *bool:
		text = strconv.FormatBool(*v)
	}
	if text == `""` || text == "0" || text == "false" {
		return ""
	}
	return text
}

// decode reads what encode wrote. An unknown name is skipped: a later version may have written it.
func decode(text string, fields []field) error {
	if !strings.HasSuffix(text, "\n") {
		return ErrMalformed
	}
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !found {
			return ErrMalformed
		}
		for _, f := range fields {
			if f.name != name {
				continue
			}
			err := parse(value, f.value)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func parse(text string, into any) error {
	var err error
	switch v := into.(type) {
	case *string:
		*v, err = strconv.Unquote(text)
	case *[]string:
		var element string
		element, err = strconv.Unquote(text)
		*v = append(*v, element)
	case *int:
		*v, err = strconv.Atoi(text)
	case *int64:
		*v, err = strconv.ParseInt(text, 10, 64)
	case *uint64:
		*v, err = strconv.ParseUint(text, 10, 64)
	case *bool:
		*v, err = strconv.ParseBool(text)
	}
	if err != nil {
		return ErrMalformed
	}
	return nil
}
