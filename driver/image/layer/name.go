package layer

import (
	"path"
	"strings"
)

// Whiteouts as the OCI image specification spells them.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh."
)

// clean makes a path of the archive relative to the layer's root: "." for the root itself. A path with
// ".." anywhere is refused rather than cleaned, since no honest tool writes one.
func clean(entry, name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", hostile(entry, "has a zero byte in its path")
	}
	if len(name) > maxPath {
		return "", hostile(entry, "has a path longer than the kernel takes")
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", hostile(entry, "has '..' in its path")
		default:
			depth++
		}
	}
	if depth > maxDepth {
		return "", hostile(entry, "nests too deep")
	}
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		return ".", nil
	}
	return rel, nil
}

// split gives the parent and the last part of a cleaned path.
func split(rel string) (dir, base string) {
	dir, base = path.Split(rel)
	if dir == "" {
		return ".", base
	}
	return strings.TrimSuffix(dir, "/"), base
}

// checkWhiteout refuses parts that look like whiteouts in the middle of a path and whiteouts of nothing.
func checkWhiteout(entry, dir, base string) error {
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, whiteoutPrefix) {
			return hostile(entry, "lies below a whiteout")
		}
	}
	if base == whiteoutPrefix || base == whiteoutPrefix+"." || base == whiteoutPrefix+".." {
		return hostile(entry, "hides nothing that has a name")
	}
	return nil
}
