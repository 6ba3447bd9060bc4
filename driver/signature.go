package driver

import (
	"path"

	"pangaea/driver/image"
	"pangaea/driver/image/signature"
)

// signatureBlocks checks what can be told without reading the keys.
func (s *settings) signatureBlocks() {
	for i, b := range s.Signatures {
		if b.AllowUnsigned == (len(b.Keys) > 0) {
			s.problem("signature block %d needs either keys or allow_unsigned = true", i+1)
		}
		for _, glob := range b.Images {
			_, err := path.Match(glob, "")
			if err != nil {
				s.problem("signature block %d: %q is no glob", i+1, glob)
			}
		}
	}
}

// signatureRules reads the keys. They are read for every start, which takes microseconds: a key that is replaced
// counts at once, and one that can't be read stops starts and nothing else.
func (s *settings) signatureRules() ([]image.SignatureRule, error) {
	var rules []image.SignatureRule
	for _, b := range s.Signatures {
		rule := image.SignatureRule{Images: b.Images, AllowUnsigned: b.AllowUnsigned}
		if len(b.Images) == 0 {
			rule.Images = []string{"**"}
		}
		for _, path := range b.Keys {
			keys, err := signature.Load(path)
			if err != nil {
				return nil, err
			}
			rule.Keys = append(rule.Keys, keys...)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}
