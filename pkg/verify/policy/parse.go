package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// Options are what Parse needs besides the document.
type Options struct {
	Source string // the document's name, for messages
	// Read gives the content of a file that the policy names, by the path as it is written there; whoever calls resolves it
	// against the policy's own directory. Nil: the policy can name none.
	Read func(path string) ([]byte, error)
	Now  func() time.Time // nil means time.Now
}

// Bounds of what one policy says. Nobody needs more, and matching must not take time.
const (
	maxPatterns   = 1000
	maxExceptions = 500
	maxLeaves     = 64
	maxDepth      = 8
	maxExpression = 400
)

// Parse reads a policy. The error is an *Error with all that is wrong.
func Parse(data []byte, o Options) (*Policy, error) {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	r := &reader{o: o, now: now(), files: map[string][]byte{}, sum: newSum()}
	r.add([]byte("nopsctl policy 1 " + AWSSignerRoot))
	r.add(data)
	p := &Policy{Source: o.Source}
	if root := r.document(data); root != nil {
		r.policy(root, p)
	}
	if len(r.problems) > 0 {
		sort.SliceStable(r.problems, func(i, j int) bool {
			a, b := r.problems[i], r.problems[j]
			return a.Line < b.Line || a.Line == b.Line && a.Path < b.Path
		})
		return nil, &Error{o.Source, r.problems}
	}
	p.Hash, p.Warnings = hex.EncodeToString(r.sum.Sum(nil)), r.warnings
	return p, nil
}

func (r *reader) policy(root *yaml.Node, p *Policy) {
	f := r.fields(root, "", "apiVersion", "kind", "trust", "images", "exceptions")
	for name, want := range map[string]string{"apiVersion": APIVersion, "kind": Kind} {
		if f[name] == nil {
			r.say(root, name, "it is missing", "write "+name+": "+want)
		} else if have, ok := r.text(f[name], name); ok && have != want {
			r.say(f[name], name, strconv.Quote(clip(have))+" is not read by this version", "write "+name+": "+want)
		}
	}
	if n := f["trust"]; n != nil {
		t := r.fields(n, "trust", "awsSigner", "notation", "sigstore")
		if n := t["awsSigner"]; n != nil {
			p.Trust.AWSSigner = r.awsSigner(n, "trust.awsSigner")
		}
		if n := t["notation"]; n != nil {
			p.Trust.Stores = r.stores(n, "trust.notation", p.Trust.AWSSigner.Roots)
		}
		if n := t["sigstore"]; n != nil {
			p.Trust.Sigstore = r.sigstore(n, "trust.sigstore")
		}
	}
	if f["images"] == nil {
		r.say(root, "images", "there is no rule, so that no image could pass", "say what images must be signed by whom")
	} else {
		r.rules(f["images"], p)
	}
	if n := f["exceptions"]; n != nil {
		list := r.list(n, "exceptions")
		if len(list) > maxExceptions {
			r.say(n, "exceptions", fmt.Sprintf("there are %d, of at most %d", len(list), maxExceptions), "")
			return
		}
		for i, e := range list {
			p.Exceptions = append(p.Exceptions, r.exception(e, index("exceptions", i)))
		}
	}
}

func (r *reader) rules(n *yaml.Node, p *Policy) {
	patterns := 0
	for i, entry := range r.list(n, "images") {
		rule := r.rule(entry, index("images", i), p)
		patterns += len(rule.Match)
		if patterns > maxPatterns {
			r.say(entry, index("images", i), fmt.Sprintf("the rules have more than %d patterns together", maxPatterns), "write fewer, with * or **")
			return
		}
		if by, ok := covered(rule, p.Rules); ok {
			r.warn(entry, "this rule can never match: the one in line %d comes first and fits all that it fits", by.Line)
		}
		p.Rules = append(p.Rules, rule)
	}
}

// covered says whether earlier rules leave nothing for a rule, as far as can be seen from the patterns as they are written.
func covered(rule Rule, earlier []Rule) (by Rule, ok bool) {
	for _, q := range rule.Match {
		found := false
	search:
		for _, e := range earlier {
			for _, p := range e.Match {
				if covers(p, q) {
					by, found = e, true
					break search
				}
			}
		}
		if !found {
			return Rule{}, false
		}
	}
	return by, len(rule.Match) > 0
}

func (r *reader) rule(n *yaml.Node, path string, p *Policy) Rule {
	rule := Rule{Line: n.Line, Revocation: RevocationBestEffort}
	f := r.fields(n, path, "match", "require", "revocation", "maxAge", "notBefore")
	rule.Match = r.match(n, f["match"], join(path, "match"))
	if f["require"] == nil {
		r.say(n, join(path, "require"), "it is missing", "say by whom these images must be signed; what need not be is an exception with a reason and an end")
	} else {
		rule.Require = r.require(f["require"], join(path, "require"), &p.Trust, 1)
		if count := len(rule.Require.Leaves()); count > maxLeaves {
			r.say(f["require"], join(path, "require"), fmt.Sprintf("there are %d requirements in one rule, of at most %d", count, maxLeaves), "")
		}
	}
	if text, ok := r.text(f["revocation"], join(path, "revocation")); ok {
		modes := []string{string(RevocationRequire), string(RevocationBestEffort), string(RevocationOff)}
		if rule.Revocation = Revocation(text); !contains(modes, text) {
			fix := "write one of " + strings.Join(modes, ", ")
			if best := nearest(text, modes); best != "" {
				fix = "did you mean " + best + "?"
			}
			r.say(f["revocation"], join(path, "revocation"), strconv.Quote(clip(text))+" is no mode", fix)
		}
	}
	rule.MaxAge = r.duration(f["maxAge"], join(path, "maxAge"))
	rule.NotBefore = r.day(f["notBefore"], join(path, "notBefore"), false)
	if !rule.NotBefore.IsZero() && rule.NotBefore.After(r.now) {
		r.say(f["notBefore"], join(path, "notBefore"), "it is in the future, so that no signature passes", "write the earliest time at which a signature may have been made")
	}
	timed := rule.MaxAge > 0 || !rule.NotBefore.IsZero()
	for _, leaf := range rule.Require.Leaves() {
		if leaf.Method == MethodCosignKey && !leaf.Log && timed {
			r.warn(n, "maxAge and notBefore ask when a signature was made, and one by a key without transparency log proves no time: none passes")
			break
		}
	}
	for _, leaf := range rule.Require.Leaves() {
		if len(p.Trust.AWSSigner.Roots) > 0 {
			break
		}
		for _, arn := range leaf.Profiles {
			if partition := strings.SplitN(arn, ":", 3)[1]; partition != "aws" {
				r.warn(n, "signatures of the partition %s lead to a root of their own: name it in trust.awsSigner.roots", partition)
			}
		}
	}
	return rule
}

func (r *reader) match(parent, n *yaml.Node, path string) []string {
	if n == nil {
		r.say(parent, path, "it is missing", "say which images: a list of patterns such as public.ecr.aws/nops/**")
		return nil
	}
	return r.texts(n, path, func(n *yaml.Node, path, text string) bool {
		what, fix := checkPattern(text)
		if what != "" {
			r.say(n, path, strconv.Quote(clip(text))+": "+what, fix)
		}
		return what == ""
	})
}

func (r *reader) require(n *yaml.Node, path string, trust *Trust, depth int) Requirement {
	if depth > maxDepth {
		r.say(n, path, fmt.Sprintf("requirements stand more than %d deep in each other", maxDepth), "")
		return Requirement{}
	}
	kinds := []string{"awsSigner", "notation", "cosignKey", "cosignKeyless", "anyOf", "allOf"}
	f := r.fields(n, path, kinds...)
	kind, ok := r.one(n, path, f, kinds...)
	if !ok {
		return Requirement{}
	}
	n, path = f[kind], join(path, kind)
	switch kind {
	case "anyOf", "allOf":
		var all []Requirement
		for i, entry := range r.list(n, path) {
			all = append(all, r.require(entry, index(path, i), trust, depth+1))
		}
		if kind == "anyOf" {
			return Requirement{AnyOf: all}
		}
		return Requirement{AllOf: all}
	case "awsSigner":
		leaf := Leaf{Method: MethodAWSSigner}
		f := r.fields(n, path, "profiles")
		if f["profiles"] == nil {
			r.say(n, join(path, "profiles"), "it is missing", "name the signing profiles by their ARNs: every customer of AWS signs with the same certificates, and the profile alone says who it was")
		} else {
			leaf.Profiles = r.texts(f["profiles"], join(path, "profiles"), r.profile)
		}
		return Requirement{Leaf: &leaf}
	case "notation":
		return Requirement{Leaf: r.notation(n, path, trust.Stores)}
	case "cosignKey":
		return Requirement{Leaf: r.cosignKey(n, path)}
	}
	return Requirement{Leaf: r.cosignKeyless(n, path)}
}

// The grammar of AWS Signer's ARNs. Those of aliases may leave out account and region, and AWS's do.
var (
	profileARN = regexp.MustCompile(`^arn:(aws[-a-z]*):signer:(?:([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}):[0-9]{12}:/signing-profiles/[A-Za-z0-9_]{2,64}(?:/[A-Za-z0-9]{1,64})?|([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2})?:(?:[0-9]{12})?:/aliases/[A-Za-z0-9_.-]{1,128})$`)
	wordProf   = regexp.MustCompile(`:/?signing-profiles?/`)
	wordAlias  = regexp.MustCompile(`:/?alias(?:es)?/`)
)

const arnExample = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/NAME"

func (r *reader) profile(n *yaml.Node, path, text string) bool {
	m := profileARN.FindStringSubmatch(text)
	if m == nil {
		fix := "write " + arnExample
		switch fixed := wordAlias.ReplaceAllString(wordProf.ReplaceAllString(strings.TrimSpace(text), ":/signing-profiles/"), ":/aliases/"); {
		case text == placeholder:
			r.say(n, path, "the template's place holder still stands here", "ask whoever publishes the images for the ARN of their signing profile, and write it here")
			return false
		case strings.Contains(text, "*"):
			r.say(n, path, strconv.Quote(clip(text))+": there are no wildcards, as anybody may have a profile of such a name", "name each profile by its whole ARN")
			return false
		case strings.HasPrefix(text, "x509.subject"):
			r.say(n, path, "the subject of AWS Signer's certificates is the same for every customer of AWS, and says nothing", fix)
			return false
		case fixed != text && profileARN.MatchString(fixed):
			fix = "did you mean " + fixed + "?"
		case strings.Contains(text, "/signing-jobs/") || strings.Contains(text, "/aliased-signing-profiles/"):
			fix = "name the profile or the alias itself: " + arnExample
		}
		r.say(n, path, strconv.Quote(clip(text))+" is no ARN of a signing profile", fix)
		return false
	}
	region := m[2] + m[3]
	for prefix, partition := range map[string]string{"us-gov-": "aws-us-gov", "cn-": "aws-cn"} {
		if region != "" && strings.HasPrefix(region, prefix) != (m[1] == partition) {
			r.say(n, path, fmt.Sprintf("the region %s is not one of the partition %s", region, m[1]), "copy the ARN from where the profile is shown")
			return false
		}
	}
	return true
}

func (r *reader) notation(n *yaml.Node, path string, stores []Store) *Leaf {
	leaf := &Leaf{Method: MethodNotation}
	f := r.fields(n, path, "store", "subjects")
	if f["store"] == nil {
		r.say(n, join(path, "store"), "it is missing", "name one of trust.notation.stores")
	} else if name, ok := r.text(f["store"], join(path, "store")); ok {
		var names []string
		for _, s := range stores {
			names = append(names, s.Name)
		}
		if leaf.Store = name; !contains(names, name) {
			fix := "add it to trust.notation.stores"
			if best := nearest(name, names); best != "" {
				fix = "did you mean " + best + "?"
			}
			r.say(f["store"], join(path, "store"), "there is no store "+strconv.Quote(clip(name)), fix)
		}
	}
	if f["subjects"] == nil {
		r.say(n, join(path, "subjects"), "it is missing", "name the signers: a store's certificates sign for many")
	} else {
		leaf.Subjects = r.subjects(f["subjects"], join(path, "subjects"))
	}
	return leaf
}

var attribute = regexp.MustCompile(`^ *([A-Za-z][A-Za-z0-9]*) *= *(.*?) *$`)

// subjects takes what Notary trust policies take: distinguished names with at least country, state and organisation, none of
// which says no more than another.
func (r *reader) subjects(n *yaml.Node, path string) []string {
	var names []map[string]string
	all := r.texts(n, path, func(n *yaml.Node, path, text string) bool {
		name, what := distinguished(strings.TrimPrefix(text, subjectPrefix))
		if what != "" {
			r.say(n, path, strconv.Quote(clip(text))+": "+what, `write at least country, state and organisation: "C=US, ST=WA, O=Example", and CN= for one signer; a comma in a value as \,`)
			return false
		}
		for _, other := range names {
			if within(name, other) || within(other, name) {
				r.say(n, path, strconv.Quote(clip(text))+": of this subject and one before it, one includes the other", "leave the one that you mean")
				return false
			}
		}
		names = append(names, name)
		return true
	})
	for i := range all {
		all[i] = strings.TrimSpace(strings.TrimPrefix(all[i], subjectPrefix))
	}
	return all
}

const subjectPrefix = "x509.subject:" // as Notary's own policies write it

// within says whether a certificate that has all of a has all of b, too.
func within(a, b map[string]string) bool {
	for k, v := range b {
		if a[k] != v {
			return false
		}
	}
	return true
}

// distinguished reads a name by less than RFC 4514 allows, so that no two readers read it differently.
func distinguished(text string) (name map[string]string, what string) {
	if len(text) > 1000 {
		return nil, "it is too long"
	}
	name = map[string]string{}
	for _, part := range splitDN(text) {
		m := attribute.FindStringSubmatch(part)
		switch {
		case m == nil:
			return nil, "it is no distinguished name"
		case strings.ToUpper(m[1]) != m[1]:
			return nil, m[1] + " is written in capitals"
		case strings.HasPrefix(m[2], "#") || m[2] == "":
			return nil, m[1] + " has no value"
		case strings.Contains(m[2], "*"):
			return nil, "there are no wildcards"
		case odd(m[2]):
			return nil, m[1] + ` has a value with one of " + ; < > = in it, or a backslash before something else than a comma`
		}
		key := m[1]
		if key == "S" {
			key = "ST"
		}
		if name[key] != "" {
			return nil, key + " is there twice"
		}
		name[key] = strings.ReplaceAll(m[2], `\,`, ",")
	}
	for _, key := range []string{"C", "ST", "O"} {
		if name[key] == "" {
			return nil, key + " is missing"
		}
	}
	return name, ""
}

func odd(value string) bool {
	value = strings.ReplaceAll(value, `\,`, "")
	if strings.ContainsAny(value, "\"+;<>=\\") {
		return true
	}
	for _, c := range value {
		if !unicode.IsPrint(c) {
			return true
		}
	}
	return false
}

// splitDN splits at commas that have no backslash before them.
func splitDN(s string) []string {
	var parts []string
	begin := 0
	for i := range len(s) {
		if s[i] == ',' && (i == 0 || s[i-1] != '\\') {
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	return append(parts, s[begin:])
}

func (r *reader) cosignKey(n *yaml.Node, path string) *Leaf {
	leaf := &Leaf{Method: MethodCosignKey}
	f := r.fields(n, path, "key", "keyFile", "transparencyLog")
	leaf.Log = r.flag(f["transparencyLog"], join(path, "transparencyLog"), true)
	kind, ok := r.one(n, path, f, "key", "keyFile")
	if !ok {
		return leaf
	}
	at := join(path, kind)
	data, ok := r.content(f[kind], at, kind == "keyFile")
	if !ok {
		return leaf
	}
	blocks, ok := r.blocks(f[kind], at, data, "PUBLIC KEY")
	if !ok {
		return leaf
	}
	if len(blocks) != 1 {
		r.say(f[kind], at, fmt.Sprintf("there are %d keys", len(blocks)), "write one requirement for each, below anyOf")
		return leaf
	}
	key, err := x509.ParsePKIXPublicKey(blocks[0])
	if err != nil {
		r.say(f[kind], at, "the public key cannot be read", "cosign public-key prints it")
		return leaf
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			r.say(f[kind], at, fmt.Sprintf("an RSA key of %d bits protects nothing", key.N.BitLen()), "make one of at least 2048")
			return leaf
		}
	default:
		r.say(f[kind], at, "nobody signs with such a key", "cosign makes ECDSA keys; RSA and Ed25519 are taken, too")
		return leaf
	}
	leaf.Key = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: blocks[0]})
	return leaf
}

func (r *reader) cosignKeyless(n *yaml.Node, path string) *Leaf {
	leaf := &Leaf{Method: MethodCosignKeyless}
	f := r.fields(n, path, "issuer", "issuerPattern", "subject", "subjectPattern")
	for _, part := range []struct {
		exact, pattern       string
		toExact, toPattern   *string
		exampleOf, wrongStar string
	}{
		{"issuer", "issuerPattern", &leaf.Issuer, &leaf.IssuerPattern, "https://token.actions.githubusercontent.com", "a * is itself here; write issuerPattern with a regular expression"},
		{"subject", "subjectPattern", &leaf.Subject, &leaf.SubjectPattern, "https://github.com/OWNER/REPOSITORY/.github/workflows/release.yaml@refs/heads/main", "a * is itself here; write subjectPattern with a regular expression"},
	} {
		kind, ok := r.one(n, path, f, part.exact, part.pattern)
		if !ok {
			continue
		}
		at := join(path, kind)
		text, ok := r.text(f[kind], at)
		switch {
		case !ok:
		case kind == part.exact && strings.Contains(text, "*"):
			r.say(f[kind], at, "no certificate says "+strconv.Quote(clip(text)), part.wrongStar)
		case kind == part.exact:
			*part.toExact = text
		default:
			if what := checkExpression(text); what != "" {
				r.say(f[kind], at, what, "write one that fits what the certificate says, such as "+part.exampleOf)
				continue
			}
			*part.toPattern = text
		}
	}
	return leaf
}

// checkExpression says what is wrong with a regular expression. It must be one by itself: "a)|(b" is one only between the
// parentheses that anchor it, and then matches anywhere.
func checkExpression(text string) string {
	if len(text) > maxExpression {
		return fmt.Sprintf("the expression has %d characters, of at most %d", len(text), maxExpression)
	}
	if _, err := regexp.Compile(text); err != nil {
		return clip(err.Error())
	}
	whole, err := regexp.Compile(Anchored(text))
	if err != nil {
		return clip(err.Error())
	}
	if whole.MatchString("") {
		return "the expression fits nothing at all, too"
	}
	for _, stranger := range []string{"x", "somebody@nowhere.invalid", "https://nowhere.invalid/anything"} {
		if !whole.MatchString(stranger) {
			return ""
		}
	}
	return "the expression fits everybody"
}

// content is a text in the policy, or of a file that it names.
func (r *reader) content(n *yaml.Node, path string, file bool) ([]byte, bool) {
	if file {
		return r.file(n, path)
	}
	text, ok := r.text(n, path)
	return []byte(text), ok
}

// blocks are the PEM blocks of one kind; anything else in between than comments is a problem. The text is never repeated.
func (r *reader) blocks(n *yaml.Node, path string, data []byte, kind string) ([][]byte, bool) {
	var all [][]byte
	begun := bytes.Count(data, []byte("-----BEGIN "))
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch {
		case strings.Contains(b.Type, "PRIVATE KEY"):
			r.say(n, path, secretWhat, secretFix)
			return nil, false
		case b.Type != kind:
			r.say(n, path, "expected PEM that begins with -----BEGIN "+kind+"-----, and found "+clip(b.Type), "")
			return nil, false
		}
		all = append(all, b.Bytes)
	}
	if len(all) == 0 || len(all) != begun {
		r.say(n, path, "expected PEM that begins with -----BEGIN "+kind+"-----", "copy the whole file, its first and last line included; in YAML, behind a | and indented")
		return nil, false
	}
	return all, true
}

// certificates reads PEM, or DER from a file.
func (r *reader) certificates(n *yaml.Node, path string, file bool) []*x509.Certificate {
	data, ok := r.content(n, path, file)
	if !ok {
		return nil
	}
	ders := [][]byte{data}
	if !file || bytes.Contains(data, []byte("-----BEGIN ")) {
		if ders, ok = r.blocks(n, path, data, "CERTIFICATE"); !ok {
			return nil
		}
	}
	var all []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			r.say(n, path, "it is no certificate that can be read", "")
			return nil
		}
		if c.NotAfter.Before(r.now) {
			r.warn(n, "%s: the certificate of %s ended on %s", path, clip(c.Subject.String()), c.NotAfter.UTC().Format(time.DateOnly))
		}
		all = append(all, c)
	}
	return all
}

// selfMade says whether a certificate is its own issuer, and proves it.
func selfMade(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

var fingerprintPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// sha256 reads a fingerprint as tools print them: with colons or without, in capitals or not.
func (r *reader) sha256(n *yaml.Node, path string) (string, bool) {
	text, ok := r.text(n, path)
	if !ok {
		return "", false
	}
	plain := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(text), "sha256:"), ":", "")
	if !fingerprintPattern.MatchString(plain) {
		r.say(n, path, strconv.Quote(clip(text))+" is no SHA-256", "openssl x509 -in FILE -noout -fingerprint -sha256 prints it")
		return "", false
	}
	return plain, true
}

func (r *reader) awsSigner(n *yaml.Node, path string) AWSSigner {
	var a AWSSigner
	f := r.fields(n, path, "roots", "endpoint", "evidenceFile", "maxEvidenceAge")
	if list := f["roots"]; list != nil {
		for i, entry := range r.list(list, join(path, "roots")) {
			at := index(join(path, "roots"), i)
			root, ok := r.root(entry, at)
			switch {
			case !ok:
			case contains(a.Roots, root):
				r.say(entry, at, "it is in the list twice", "leave one")
			default:
				a.Roots = append(a.Roots, root)
			}
		}
	}
	if text, ok := r.text(f["endpoint"], join(path, "endpoint")); ok {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			r.say(f["endpoint"], join(path, "endpoint"), "it is no endpoint", "write https://HOST or https://HOST:PORT")
		} else {
			a.Endpoint = "https://" + u.Host
		}
	}
	if name := f["evidenceFile"]; name != nil {
		if data, ok := r.file(name, join(path, "evidenceFile")); ok {
			a.EvidenceFile, a.Evidence = name.Value, data
		}
	}
	a.MaxEvidenceAge = r.duration(f["maxEvidenceAge"], join(path, "maxEvidenceAge"))
	return a
}

// root is the fingerprint of a root of AWS Signer. A certificate alone is no proof of itself: it needs its fingerprint beside
// it, as published, unless it is the one that is known here.
func (r *reader) root(n *yaml.Node, path string) (string, bool) {
	f := r.fields(n, path, "sha256", "certificate", "certificateFile")
	said := ""
	if f["sha256"] != nil {
		var ok bool
		if said, ok = r.sha256(f["sha256"], join(path, "sha256")); !ok {
			return "", false
		}
	}
	if f["certificate"] == nil && f["certificateFile"] == nil {
		if said == "" {
			r.say(n, path, "neither fingerprint nor certificate is there", "write sha256: and the fingerprint that AWS documents")
		}
		return said, said != ""
	}
	kind, ok := r.one(n, path, f, "certificate", "certificateFile")
	if !ok {
		return "", false
	}
	found := r.certificates(f[kind], join(path, kind), kind == "certificateFile")
	switch {
	case len(found) == 0:
		return "", false
	case len(found) > 1:
		r.say(f[kind], join(path, kind), fmt.Sprintf("there are %d certificates", len(found)), "write each root as an entry of its own")
		return "", false
	}
	have := fingerprint(found[0].Raw)
	switch {
	case said == "" && have != AWSSignerRoot:
		r.say(f[kind], join(path, kind), "this is not the root that is known as AWS Signer's, and no fingerprint stands beside it; its own is "+have, "compare that with the one that AWS documents, and write it beside the certificate as sha256")
		return "", false
	case said != "" && have != said:
		r.say(f[kind], join(path, kind), "the certificate's fingerprint is "+have+", and not the one beside it", "find out where this certificate comes from, before you trust it")
		return "", false
	case !found[0].IsCA || !selfMade(found[0]):
		r.say(f[kind], join(path, kind), "it is no root", "name the last certificate of the chain, which is its own issuer")
		return "", false
	}
	return have, true
}

var storeName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

func (r *reader) stores(n *yaml.Node, path string, aws []string) []Store {
	f := r.fields(n, path, "stores")
	if f["stores"] == nil {
		r.say(n, join(path, "stores"), "it is missing", "")
		return nil
	}
	if len(aws) == 0 {
		aws = []string{AWSSignerRoot}
	}
	var all []Store
	for i, entry := range r.list(f["stores"], join(path, "stores")) {
		at := index(join(path, "stores"), i)
		f := r.fields(entry, at, "name", "certificates", "certificateFiles", "tsaCertificates", "tsaCertificateFiles")
		var s Store
		if f["name"] == nil {
			r.say(entry, join(at, "name"), "it is missing", "requirements name the store by it")
		} else if s.Name, _ = r.text(f["name"], join(at, "name")); s.Name != "" && !storeName.MatchString(s.Name) {
			r.say(f["name"], join(at, "name"), strconv.Quote(clip(s.Name))+" is no name for a store", "letters, digits, dots, dashes and underscores")
		}
		for _, other := range all {
			if s.Name != "" && other.Name == s.Name {
				r.say(entry, at, "there are two stores "+strconv.Quote(clip(s.Name)), "give each a name of its own, or put the certificates together")
			}
		}
		problems := len(r.problems)
		s.Certificates = append(r.stored(f["certificates"], join(at, "certificates"), false, false, aws), r.stored(f["certificateFiles"], join(at, "certificateFiles"), true, false, aws)...)
		s.TSA = append(r.stored(f["tsaCertificates"], join(at, "tsaCertificates"), false, true, aws), r.stored(f["tsaCertificateFiles"], join(at, "tsaCertificateFiles"), true, true, aws)...)
		if len(s.Certificates) == 0 && len(r.problems) == problems {
			r.say(entry, at, "the store has no certificates", "name some in certificates or certificateFiles")
		}
		all = append(all, s)
	}
	return all
}

// stored are the certificates of a store. AWS Signer's root is none for it: its certificates have one subject for every
// customer of AWS, so that a subject would let anybody in.
func (r *reader) stored(n *yaml.Node, path string, file, tsa bool, aws []string) [][]byte {
	if n == nil {
		return nil
	}
	var all [][]byte
	for i, entry := range r.list(n, path) {
		at := index(path, i)
		for _, c := range r.certificates(entry, at, file) {
			switch {
			case contains(aws, fingerprint(c.Raw)) || fingerprint(c.Raw) == AWSSignerRoot:
				r.say(entry, at, "AWS Signer's root is not for a store: the subject of its certificates is the same for every customer of AWS", "require awsSigner with profiles")
			case tsa && (!c.IsCA || !selfMade(c)):
				r.say(entry, at, "a time stamping authority is trusted by its root, and this is none", "name the last certificate of its chain, which is its own issuer")
			case !c.IsCA && !selfMade(c):
				r.say(entry, at, "it is neither an authority nor its own issuer", "name the authority that issued it")
			default:
				all = append(all, c.Raw)
			}
		}
	}
	return all
}

func (r *reader) sigstore(n *yaml.Node, path string) Sigstore {
	f := r.fields(n, path, "trustedRootFile")
	if f["trustedRootFile"] == nil {
		r.say(n, join(path, "trustedRootFile"), "it is missing", "leave sigstore out for the public good instance")
		return Sigstore{}
	}
	at := join(path, "trustedRootFile")
	data, ok := r.file(f["trustedRootFile"], at)
	if !ok {
		return Sigstore{}
	}
	var document struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &document); err != nil || !strings.HasPrefix(document.MediaType, "application/vnd.dev.sigstore.trustedroot") {
		r.say(f["trustedRootFile"], at, "it is no trusted root of Sigstore", "name a trusted_root.json")
		return Sigstore{}
	}
	return Sigstore{TrustedRoot: data}
}

func (r *reader) exception(n *yaml.Node, path string) Exception {
	e := Exception{Line: n.Line}
	f := r.fields(n, path, "match", "digest", "reason", "expires")
	e.Match = r.match(n, f["match"], join(path, "match"))
	if text, ok := r.text(f["digest"], join(path, "digest")); ok {
		if e.Digest = text; !ref.IsDigest(text) {
			r.say(f["digest"], join(path, "digest"), strconv.Quote(clip(text))+" is no digest", "write sha256: and 64 lower-case hexadecimal digits, or leave it out for every version")
		}
	}
	for _, pattern := range e.Match {
		if e.Digest == "" && strings.HasPrefix(pattern, "*") {
			r.say(f["match"], join(path, "match"), strconv.Quote(clip(pattern))+" would except images of every registry", "name the registry, or the digest of the one image")
		}
	}
	if f["reason"] == nil {
		r.say(n, join(path, "reason"), "it is missing", "say why this image may run unverified: whoever reads the report asks")
	} else {
		e.Reason, _ = r.text(f["reason"], join(path, "reason"))
		e.Reason = clip(e.Reason)
	}
	if f["expires"] == nil {
		r.say(n, join(path, "expires"), "it is missing", "say when it ends: YYYY-MM-DD, at most a year ahead")
		return e
	}
	if e.Expires = r.day(f["expires"], join(path, "expires"), true); e.Expires.IsZero() {
		return e
	}
	switch {
	case e.Expires.After(r.now.AddDate(1, 0, 1)):
		r.say(f["expires"], join(path, "expires"), "it is more than a year ahead", "write a nearer date; it can be renewed")
	case !r.now.Before(e.Expires):
		r.warn(n, "this exception ended on %s", e.Expires.Add(-1).UTC().Format(time.DateOnly))
	}
	return e
}
