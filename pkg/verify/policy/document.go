package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxDocument bounds a policy, and each file that it names.
const maxDocument = 1 << 20

// Error is all that is wrong with a policy, found at once.
type Error struct {
	Source   string
	Problems []Problem
}

// Problem is one thing that is wrong.
type Problem struct {
	Line int    // in the document; 0: all of it
	Path string // such as images[0].require.awsSigner.profiles[1]
	What string
	Fix  string
}

// String is the problem in one line.
func (p Problem) String() string {
	s := p.What
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Line > 0 {
		s = "line " + strconv.Itoa(p.Line) + ": " + s
	}
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

const maxTold = 40

// Error implements error: one line, or one for each problem.
func (e *Error) Error() string {
	source := strings.TrimSpace("policy " + e.Source)
	if len(e.Problems) == 1 {
		return source + ": " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d mistakes", source, len(e.Problems))
	for i, p := range e.Problems {
		if i == maxTold {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Problems)-i)
			break
		}
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Hint says where the format is written down.
func (e *Error) Hint() string {
	return "docs/verification.md has the format of policies, with examples"
}

// reader walks a document. It goes on after a problem, so that people hear of all at once.
type reader struct {
	o        Options
	now      time.Time
	problems []Problem
	warnings []string
	files    map[string][]byte
	sum      hash.Hash
}

// say notes a problem at a node.
func (r *reader) say(n *yaml.Node, path, what, fix string) {
	line := 0
	if n != nil {
		line = n.Line
	}
	r.problems = append(r.problems, Problem{line, path, what, fix})
}

// warn notes what is allowed and probably not meant.
func (r *reader) warn(n *yaml.Node, format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf("line %d: ", n.Line)+fmt.Sprintf(format, args...))
}

// add puts bytes into the policy's hash, with their length, so that no two sets of files look the same.
func (r *reader) add(data []byte) {
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(data)))
	r.sum.Write(size[:])
	r.sum.Write(data)
}

var (
	syntaxLine = regexp.MustCompile(`^line (\d+): `)
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY`)
)

// The words for a secret that stands where a public part belongs. Its text is repeated nowhere.
const (
	secretWhat = "there is a private key here, and a policy needs none"
	secretFix  = "take it out, and as others may have read it by now, make a new one; the public key or the certificate belongs here"
)

// document parses the YAML, and refuses what makes it say something else than a reader sees.
func (r *reader) document(data []byte) (root *yaml.Node) {
	defer func() { // the parser's own mistakes are no reason to end a process
		if p := recover(); p != nil {
			r.say(nil, "", "the YAML cannot be read", "write it more plainly")
			root = nil
		}
	}()
	if len(data) > maxDocument {
		r.say(nil, "", fmt.Sprintf("it has %d bytes, of at most %d", len(data), maxDocument), "")
		return nil
	}
	if at := privateKey.FindIndex(data); at != nil {
		r.problems = append(r.problems, Problem{1 + bytes.Count(data[:at[0]], []byte("\n")), "", secretWhat, secretFix})
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		r.say(nil, "", "it is empty", "nopsctl verify example-policy prints one to begin with")
		return nil
	} else if err != nil {
		what, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
		if m := syntaxLine.FindStringSubmatch(what); m != nil {
			line, _ = strconv.Atoi(m[1])
			what = strings.TrimPrefix(what, m[0])
		}
		r.problems = append(r.problems, Problem{line, "", "not YAML: " + clip(what), ""})
		return nil
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		r.say(&second, "", "there is a second document", "a policy is one document: take out the line ---")
		return nil
	}
	if n := anchored(&doc); n != nil {
		r.say(n, "", "anchors and aliases are not taken: a policy says in each place what it means", "write it out")
		return nil
	}
	if len(doc.Content) != 1 {
		r.say(nil, "", "it is empty", "")
		return nil
	}
	return doc.Content[0]
}

// anchored is the first node that is an alias, has an anchor, or merges.
func anchored(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Tag == "!!merge" {
		return n
	}
	for _, c := range n.Content {
		if found := anchored(c); found != nil {
			return found
		}
	}
	return nil
}

// fields are the fields of a mapping, by name. What is unknown, there twice or empty is a problem.
func (r *reader) fields(n *yaml.Node, path string, known ...string) map[string]*yaml.Node {
	found, lines := map[string]*yaml.Node{}, map[string]int{}
	if n.Kind != yaml.MappingNode {
		r.say(n, path, "expected fields: "+strings.Join(known, ", "), "")
		return found
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, clip(key.Value))
		switch {
		case key.Kind != yaml.ScalarNode || !contains(known, key.Value):
			fix := "known are " + strings.Join(known, ", ")
			if best := nearest(key.Value, known); best != "" {
				fix = "did you mean " + best + "? Known are " + strings.Join(known, ", ")
			}
			r.say(key, at, "unknown field", fix)
		case lines[key.Value] > 0:
			r.say(key, at, fmt.Sprintf("it is there twice, first in line %d", lines[key.Value]), "leave one")
		case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
			r.say(value, at, "it is empty", "fill it in, or leave it out")
			lines[key.Value] = key.Line
		default:
			found[key.Value], lines[key.Value] = value, key.Line
		}
	}
	return found
}

// one says which of several fields is there, and refuses none and several.
func (r *reader) one(n *yaml.Node, path string, fields map[string]*yaml.Node, names ...string) (string, bool) {
	var there []string
	for _, name := range names {
		if fields[name] != nil {
			there = append(there, name)
		}
	}
	if len(there) == 1 {
		return there[0], true
	}
	what := "none of " + strings.Join(names, ", ") + " is there"
	if len(there) > 1 {
		what = strings.Join(there, " and ") + " are both there"
	}
	r.say(n, path, what, "say exactly one of them")
	return "", false
}

// list are the entries of a list that has some.
func (r *reader) list(n *yaml.Node, path string) []*yaml.Node {
	switch {
	case n.Kind != yaml.SequenceNode:
		r.say(n, path, "expected a list", "write each entry in a line of its own, behind a dash")
		return nil
	case len(n.Content) == 0:
		r.say(n, path, "the list is empty", "fill it in, or leave it out")
	}
	return n.Content
}

// text is a scalar as it is written. Numbers, dates and the like are text, too: a fingerprint may look like a number.
func (r *reader) text(n *yaml.Node, path string) (string, bool) {
	switch {
	case n == nil:
		return "", false
	case n.Kind != yaml.ScalarNode:
		r.say(n, path, "expected a text", "")
		return "", false
	}
	switch n.Tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
	default:
		r.say(n, path, "expected a text", "leave out what begins with an exclamation mark")
		return "", false
	}
	if strings.TrimSpace(n.Value) == "" {
		r.say(n, path, "it is empty", "fill it in, or leave it out")
		return "", false
	}
	return n.Value, true
}

// texts is a list of texts, each once.
func (r *reader) texts(n *yaml.Node, path string, check func(n *yaml.Node, path, text string) bool) []string {
	var all []string
	for i, entry := range r.list(n, path) {
		at := index(path, i)
		text, ok := r.text(entry, at)
		switch {
		case !ok || !check(entry, at, text):
		case contains(all, text):
			r.say(entry, at, "it is in the list twice", "leave one")
		default:
			all = append(all, text)
		}
	}
	return all
}

// file reads a file that the policy names. Each is read once, so that what was checked is what is used, and is part of the hash.
func (r *reader) file(n *yaml.Node, path string) ([]byte, bool) {
	name, ok := r.text(n, path)
	if !ok {
		return nil, false
	}
	data, seen := r.files[name]
	if !seen {
		if r.o.Read == nil {
			r.say(n, path, "this policy cannot name files", "put the text itself here")
			return nil, false
		}
		var err error
		if data, err = r.o.Read(name); err != nil {
			r.say(n, path, clip(err.Error()), "paths are relative to the policy's own directory")
			return nil, false
		}
		r.files[name] = data
		r.add([]byte(name))
		r.add(data)
	}
	switch {
	case len(data) > maxDocument:
		r.say(n, path, fmt.Sprintf("the file has %d bytes, of at most %d", len(data), maxDocument), "")
		return nil, false
	case privateKey.Match(data):
		r.say(n, path, "there is a private key in the file, and a policy needs none", "name a file with the public part alone")
		return nil, false
	}
	return data, true
}

var days = regexp.MustCompile(`^([0-9]{1,5})d`)

// duration reads 720h, 90m, 30d or 1d12h.
func (r *reader) duration(n *yaml.Node, path string) time.Duration {
	text, ok := r.text(n, path)
	if !ok {
		return 0
	}
	var total time.Duration
	rest := text
	if m := days.FindStringSubmatch(text); m != nil {
		count, _ := strconv.Atoi(m[1])
		total, rest = time.Duration(count)*24*time.Hour, text[len(m[0]):]
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || d > 100_000*24*time.Hour {
			r.say(n, path, strconv.Quote(clip(text))+" is no length of time", "write hours or days, such as 720h or 30d")
			return 0
		}
		total += d
	}
	if total <= 0 {
		r.say(n, path, strconv.Quote(clip(text))+" is no length of time", "write hours or days, such as 720h or 30d; leave it out for any age")
		return 0
	}
	return total
}

// day reads a moment, or a date, of which late takes the end and not the beginning. Dates are those of UTC.
func (r *reader) day(n *yaml.Node, path string, late bool) time.Time {
	text, ok := r.text(n, path)
	if !ok {
		return time.Time{}
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil && t.Year() > 1 {
		return t.UTC()
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Year() <= 1 {
		r.say(n, path, strconv.Quote(clip(text))+" is no date", "write YYYY-MM-DD, or 2006-01-02T15:04:05Z")
		return time.Time{}
	}
	if late {
		t = t.AddDate(0, 0, 1)
	}
	return t
}

// flag reads true or false, and nothing that looks like it.
func (r *reader) flag(n *yaml.Node, path string, otherwise bool) bool {
	if n == nil {
		return otherwise
	}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		r.say(n, path, "expected true or false", "")
		return otherwise
	}
	return strings.EqualFold(n.Value, "true")
}

func newSum() hash.Hash { return sha256.New() }

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// clip bounds what is repeated of somebody's input.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
	if r := []rune(s); len(r) > 120 {
		s = string(r[:120]) + "…"
	}
	return s
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

// nearest is what somebody probably meant; empty where nothing is near.
func nearest(word string, known []string) string {
	if len(word) > 60 {
		return ""
	}
	type scored struct {
		name string
		far  int
	}
	var all []scored
	for _, k := range known {
		far := distance(strings.ToLower(word), strings.ToLower(k))
		if 3*far <= len(k)+1 {
			all = append(all, scored{k, far})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].far < all[j].far })
	if len(all) == 0 {
		return ""
	}
	return all[0].name
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
