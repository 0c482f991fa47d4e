package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

const (
	arn   = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops_agents"
	head  = "apiVersion: nopsctl.io/v1\nkind: ImagePolicy\n"
	rules = "images:\n- match: [public.ecr.aws/nops/**]\n  require: {awsSigner: {profiles: ['" + arn + "']}}\n"
)

func today() time.Time { return time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC) }

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// material is what a policy may name: certificates and keys, made anew.
type material struct {
	root, otherRoot, leaf, ended, public, small, rsa, edwards, private string
	rootSum                                                            string
	files                                                              map[string]string
}

func newMaterial(t testing.TB) material {
	t.Helper()
	serial := int64(0)
	certificate := func(name string, ca bool, ends time.Time, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial++
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Example"}}, NotBefore: today().AddDate(-2, 0, 0), NotAfter: ends,
			IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		if ca {
			template.KeyUsage = x509.KeyUsageCertSign
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	later := today().AddDate(5, 0, 0)
	root, rootKey := certificate("root", true, later, nil, nil)
	other, _ := certificate("root", true, later, nil, nil)
	leaf, leafKey := certificate("leaf", false, later, root, rootKey)
	ended, _ := certificate("ended", true, today().AddDate(-1, 0, 0), nil, nil)
	public := func(key any) string {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return encode("PUBLIC KEY", der)
	}
	private, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	modulus := func(bits uint) *rsa.PublicKey { // nobody signs with it: a number of that size will do
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := material{
		root: encode("CERTIFICATE", root.Raw), otherRoot: encode("CERTIFICATE", other.Raw), leaf: encode("CERTIFICATE", leaf.Raw), ended: encode("CERTIFICATE", ended.Raw),
		public: public(leafKey.Public()), small: public(modulus(1024)), rsa: public(modulus(2048)), edwards: public(edwards), private: encode("PRIVATE KEY", private), rootSum: fingerprint(root.Raw),
	}
	m.files = map[string]string{
		"root.pem": m.root, "root.der": string(root.Raw), "both.pem": m.root + m.otherRoot, "chain.pem": "subject=CN = root\n" + m.root + "subject=CN = leaf\n" + m.leaf, "leaf.pem": m.leaf,
		"cosign.pub": m.public, "cosign.key": encode("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("x")), "trusted_root.json": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		"revocation.json": "{}", "junk": "junk", "large": strings.Repeat("x", 1<<20+1),
		"example-ca.pem": m.root, "tsa-root.pem": m.otherRoot,
	}
	return m
}

func (m material) parse(document string) (*Policy, error) {
	return Parse([]byte(document), Options{Source: "policy.yaml", Now: today, Read: func(name string) ([]byte, error) {
		text, ok := m.files[name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return []byte(text), nil
	}})
}

// indent puts a text below a key of YAML.
func indent(text string) string {
	return "|\n        " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n        ") + "\n"
}

func rule(require string) string {
	return head + "images:\n- match: [x.example/**]\n  require:\n    " + require + "\n"
}

func TestRefused(t *testing.T) {
	m := newMaterial(t)
	trust := func(text string) string { return head + "trust:\n  " + text + "\n" + rules }
	exception := func(text string) string { return head + rules + "exceptions:\n- " + text + "\n" }
	profile := func(arn string) string { return rule("awsSigner: {profiles: ['" + arn + "']}") }
	subject := func(dn string) string {
		return head + "trust: {notation: {stores: [{name: corp, certificateFiles: [root.pem]}]}}\nimages:\n- match: [x.example/**]\n  require: {notation: {store: corp, subjects: ['" + dn + "']}}\n"
	}
	keyless := func(text string) string { return rule("cosignKeyless: {" + text + "}") }
	store := func(text string) string { return trust("notation: {stores: [{name: corp, " + text + "}]}") }
	refused := []struct {
		name, reason, document string
		says                   []string
	}{
		{"empty", "nothing is not everything", "", []string{"it is empty"}},
		{"a comment", "", "# nothing\n", []string{"it is empty"}},
		{"null", "", "null\n", []string{"expected fields"}},
		{"a list", "", "- a\n", []string{"line 1", "expected fields"}},
		{"a text", "", "trust everybody", []string{"expected fields"}},
		{"not YAML", "", head + "images: [", []string{"not YAML"}},
		{"a tab", "", head + "images:\n\t- a\n", []string{"not YAML", "line 4"}},
		{"no version", "", "kind: ImagePolicy\n" + rules, []string{"apiVersion: it is missing; write apiVersion: nopsctl.io/v1"}},
		{"another version", "", strings.Replace(head, "v1", "v2", 1) + rules, []string{`"nopsctl.io/v2" is not read by this version`}},
		{"another kind", "a lock is no policy", strings.Replace(head, "ImagePolicy", "ImageLock", 1) + rules, []string{"kind: "}},
		{"two documents", "who reads the second?", head + rules + "---\n" + head + rules, []string{"second document"}},
		{"an alias", "", head + "images: &a\n- match: [x.example/y]\n  require: {awsSigner: {profiles: ['" + arn + "']}}\nexceptions: *a\n", []string{"anchors and aliases"}},
		{"a bomb", "", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", []string{"anchors and aliases"}},
		{"a merge", "", head + "images:\n- <<: {match: [x.example/y]}\n", []string{"anchors and aliases"}},
		{"too large", "", head + rules + "#" + strings.Repeat("x", 1<<20), []string{"bytes, of at most 1048576"}},
		{"unknown field", "it may restrict", head + "image: []\n" + rules, []string{"line 3: image: unknown field; did you mean images? Known are apiVersion, kind, trust, images, exceptions"}},
		{"field of another's case", "", head + strings.Replace(rules, "awsSigner", "awssigner", 1), []string{"did you mean awsSigner?"}},
		{"a field twice", "of two rules one would be forgotten", head + rules + "images: []\n", []string{"line 6: images: it is there twice, first in line 3"}},
		{"an empty field", "null is not off", head + rules + "  revocation:\n", []string{"images[0].revocation: it is empty"}},
		{"a tag of YAML's own", "", profile("x") + "  maxAge: !!binary AAAA\n", []string{"images[0].maxAge: expected a text"}},

		{"no rules", "", head, []string{"images: there is no rule"}},
		{"an empty list of rules", "", head + "images: []\n", []string{"images: the list is empty"}},
		{"a rule that is none", "", head + "images: [x]\n", []string{"images[0]: expected fields"}},
		{"a rule without match", "", head + "images: [{require: {awsSigner: {profiles: ['" + arn + "']}}}]\n", []string{"images[0].match: it is missing"}},
		{"match is a text", "", head + "images: [{match: x.example/y, require: {awsSigner: {profiles: ['" + arn + "']}}}]\n", []string{"expected a list"}},
		{"match is empty", "", head + "images: [{match: [], require: {awsSigner: {profiles: ['" + arn + "']}}}]\n", []string{"the list is empty"}},
		{"match says it twice", "", head + "images: [{match: [x.example/y, x.example/y], require: {awsSigner: {profiles: ['" + arn + "']}}}]\n", []string{"twice"}},
		{"a rule that requires nothing", "nothing is no requirement", head + "images: [{match: [x.example/y]}]\n", []string{"images[0].require: it is missing"}},
		{"an empty requirement", "", rule("{}"), []string{"none of awsSigner, notation, cosignKey, cosignKeyless, anyOf, allOf is there"}},
		{"two requirements", "which of both?", rule("{awsSigner: {profiles: ['" + arn + "']}, cosignKey: {keyFile: cosign.pub}}"), []string{"awsSigner and cosignKey are both there"}},
		{"any of none", "none of none holds for everybody", rule("anyOf: []"), []string{"anyOf: the list is empty"}},
		{"all of none", "all of none hold for everybody", rule("allOf: []"), []string{"allOf: the list is empty"}},
		{"too deep", "", rule(strings.Repeat("{anyOf: [", 9) + "{awsSigner: {profiles: ['" + arn + "']}}" + strings.Repeat("]}", 9)), []string{"more than 8 deep"}},
		{"too many", "", rule("anyOf: [" + strings.Repeat("{awsSigner: {profiles: ['"+arn+"']}}, ", 65) + "]"), []string{"65 requirements"}},
		{"no such mode", "", head + rules + "  revocation: best-efort\n", []string{"did you mean best-effort?"}},
		{"a switch for a mode", "", head + rules + "  revocation: false\n", []string{`"false" is no mode; write one of require, best-effort, off`}},
		{"an age that is none", "", head + rules + "  maxAge: 30\n", []string{`"30" is no length of time; write hours or days`}},
		{"no age", "", head + rules + "  maxAge: 0h\n", []string{"is no length of time"}},
		{"an age of the future", "", head + rules + "  maxAge: -30d\n", []string{"is no length of time"}},
		{"an age beyond counting", "", head + rules + "  maxAge: 99999999h\n", []string{"is no length of time"}},
		{"a year", "", head + rules + "  maxAge: 1y\n", []string{"is no length of time"}},
		{"no date", "", head + rules + "  notBefore: 31.12.2026\n", []string{"is no date; write YYYY-MM-DD"}},
		{"not before tomorrow", "", head + rules + "  notBefore: 2026-11-29\n", []string{"in the future"}},

		{"no profiles", "every customer of AWS signs with the same certificates", rule("awsSigner: {}"), []string{"profiles: it is missing"}},
		{"profiles of none", "", rule("awsSigner: {profiles: []}"), []string{"the list is empty"}},
		{"an empty profile", "", profile(""), []string{"it is empty"}},
		{"every profile", "", profile("*"), []string{"there are no wildcards"}},
		{"every account", "", profile("arn:aws:signer:us-east-1:*:/signing-profiles/nops_agents"), []string{"there are no wildcards"}},
		{"singular", "AWS's own tools confuse them", profile("arn:aws:signer:us-east-1:123456789012:/signing-profile/nops_agents"), []string{"did you mean " + arn + "?"}},
		{"no slash", "", profile("arn:aws:signer:us-east-1:123456789012:signing-profiles/nops_agents"), []string{"did you mean " + arn + "?"}},
		{"alias in the singular", "", profile("arn:aws:signer:us-east-1:123456789012:/alias/nops"), []string{"did you mean arn:aws:signer:us-east-1:123456789012:/aliases/nops?"}},
		{"a job", "", profile("arn:aws:signer:us-east-1:123456789012:/signing-jobs/0e1f"), []string{"name the profile"}},
		{"another service", "", profile("arn:aws:kms:us-east-1:123456789012:key/x"), []string{"is no ARN of a signing profile"}},
		{"capitals", "compared exactly", profile("ARN:aws:signer:us-east-1:123456789012:/signing-profiles/nops_agents"), []string{"is no ARN"}},
		{"no account", "", profile("arn:aws:signer:us-east-1::/signing-profiles/nops_agents"), []string{"is no ARN"}},
		{"no region", "", profile("arn:aws:signer:::/signing-profiles/nops_agents"), []string{"is no ARN of a signing profile"}},
		{"another partition's region of an alias", "", profile("arn:aws:signer:us-gov-west-1::/aliases/com.example.release"), []string{"the region us-gov-west-1 is not one of the partition aws"}},
		{"a host for a region", "regions become hosts", profile("arn:aws:signer:us-east-1.evil.example:123456789012:/signing-profiles/nops_agents"), []string{"is no ARN"}},
		{"a deeper path", "", profile(arn + "/a/b"), []string{"is no ARN"}},
		{"a line's end", "", rule("awsSigner: {profiles: [\"" + arn + "\\n\"]}"), []string{"is no ARN"}},
		{"another partition's region", "", profile("arn:aws:signer:us-gov-west-1:123456789012:/signing-profiles/nops_agents"), []string{"the region us-gov-west-1 is not one of the partition aws"}},
		{"another region's partition", "", profile("arn:aws-cn:signer:us-east-1:123456789012:/signing-profiles/nops_agents"), []string{"the region us-east-1 is not one of the partition aws-cn"}},
		{"a subject", "the same for every customer", profile("x509.subject: CN=AWS Signer,O=AWS"), []string{"the same for every customer of AWS"}},
		{"the template", "", Example(""), []string{"place holder"}},
		{"a profile twice", "", rule("awsSigner: {profiles: ['" + arn + "', '" + arn + "']}"), []string{"twice"}},

		{"no such store", "", head + "trust: {notation: {stores: [{name: corp, certificateFiles: [root.pem]}]}}\nimages:\n- match: [x.example/**]\n  require: {notation: {store: corpp, subjects: ['C=US, ST=WA, O=Example']}}\n", []string{`there is no store "corpp"; did you mean corp?`}},
		{"no subjects", "whom a store's authority signs for is many", strings.Replace(subject("x"), "subjects: ['x']", "", 1), []string{"subjects: it is missing"}},
		{"every subject", "", subject("*"), []string{"no distinguished name"}},
		{"every organisation", "", subject("C=US, ST=WA, O=*"), []string{"no wildcards"}},
		{"half a subject", "as Notary's own policies", subject("CN=Release"), []string{"C is missing"}},
		{"no state", "", subject("C=US, O=Example"), []string{"ST is missing"}},
		{"a subject twice", "", subject("C=US, ST=WA, O=Example, O=Other"), []string{"O is there twice"}},
		{"state twice", "S is ST", subject("C=US, ST=WA, S=WA, O=Example"), []string{"ST is there twice"}},
		{"an encoded subject", "DN parsers ran out of memory over these", subject("C=US, ST=WA, O=#0402"), []string{"O has no value"}},
		{"a subject with two values in one", "", subject("C=US, ST=WA, O=Example+CN=x"), []string{"O has a value with one of"}},
		{"a subject in quotes", "they would be part of it", subject(`C=US, ST=WA, O="Example"`), []string{"O has a value with one of"}},
		{"a subject with other escapes", "", subject(`C=US, ST=WA, O=Ex\61mple`), []string{"a backslash before something else"}},
		{"small letters", "Notary's own policies know capitals alone", subject("c=US, ST=WA, O=Example"), []string{"c is written in capitals"}},
		{"subjects that include each other", "Notary's own policies refuse them", subject("C=US, ST=WA, O=Example', 'C=US, ST=WA, O=Example, CN=Release"), []string{"one includes the other"}},
		{"a comma that is none", "", subject(`C=US, ST=WA\, O=Example`), []string{"ST has a value with one of"}},

		{"no key", "", rule("cosignKey: {transparencyLog: false}"), []string{"none of key, keyFile is there"}},
		{"two keys", "", rule("cosignKey: {key: x, keyFile: cosign.pub}"), []string{"key and keyFile are both there"}},
		{"a key that is none", "", rule("cosignKey: {key: awskms://alias/x}"), []string{"expected PEM that begins with -----BEGIN PUBLIC KEY-----"}},
		{"half a key", "", rule("cosignKey:\n      key: " + indent(m.public[:len(m.public)-30])), []string{"copy the whole file"}},
		{"two keys in one file", "", rule("cosignKey:\n      key: " + indent(m.public+m.rsa)), []string{"there are 2 keys"}},
		{"a certificate for a key", "", rule("cosignKey:\n      key: " + indent(m.root)), []string{"and found CERTIFICATE"}},
		{"junk in a key", "", rule("cosignKey:\n      key: " + indent(encode("PUBLIC KEY", []byte("junk")))), []string{"cannot be read"}},
		{"a weak key", "", rule("cosignKey:\n      key: " + indent(m.small)), []string{"1024 bits protects nothing"}},
		{"a private key", "", rule("cosignKey:\n      key: " + indent(m.private)), []string{"line 8", "there is a private key here", "make a new one"}},
		{"cosign's private key", "", rule("cosignKey:\n      key: " + indent(m.files["cosign.key"])), []string{"there is a private key here"}},
		{"a file with a private key", "", rule("cosignKey: {keyFile: cosign.key}"), []string{"private key in the file"}},
		{"no such file", "", rule("cosignKey: {keyFile: none.pub}"), []string{"none.pub", "relative to the policy's own directory"}},
		{"a large file", "", rule("cosignKey: {keyFile: large}"), []string{"bytes, of at most"}},
		{"log is a word", "yes was true in YAML once", rule("cosignKey: {keyFile: cosign.pub, transparencyLog: yes}"), []string{"expected true or false"}},

		{"no identity", "any identity that Fulcio knows would pass", keyless(""), []string{"none of issuer, issuerPattern is there", "none of subject, subjectPattern is there"}},
		{"no subject", "anybody at GitHub", keyless("issuer: https://token.actions.githubusercontent.com"), []string{"none of subject, subjectPattern is there"}},
		{"an empty subject", "", keyless("issuer: x, subject: ''"), []string{"it is empty"}},
		{"two subjects", "", keyless("issuer: x, subject: y, subjectPattern: z"), []string{"subject and subjectPattern are both there"}},
		{"a star in a subject", "it would fit nobody", keyless("issuer: x, subject: 'https://github.com/nops-io/*'"), []string{"write subjectPattern"}},
		{"everybody", "", keyless("issuer: x, subjectPattern: '.*'"), []string{"the expression fits"}},
		{"everybody but nobody", "", keyless("issuer: x, subjectPattern: '.+'"), []string{"fits everybody"}},
		{"everybody by an alternative", "", keyless("issuer: x, subjectPattern: 'a|(?s:.+)'"), []string{"fits everybody"}},
		{"an expression that is none", "", keyless("issuer: x, subjectPattern: '('"), []string{"missing closing )"}},
		{"an expression out of its anchors", "^(?:a)|(?:b)$ fits whatever begins with a", keyless("issuer: x, subjectPattern: 'a)|(?:b'"), []string{"unexpected )"}},
		{"an expression that explodes", "", keyless("issuer: x, subjectPattern: '((a{1000}){1000}){1000}'"), []string{"invalid repeat count"}},
		{"a long expression", "", keyless("issuer: x, subjectPattern: '" + strings.Repeat("a?", 300) + "'"), []string{"600 characters"}},

		{"a root without anything", "", trust("awsSigner: {roots: [{}]}"), []string{"neither fingerprint nor certificate"}},
		{"no roots", "", trust("awsSigner: {roots: []}"), []string{"the list is empty"}},
		{"half a fingerprint", "", trust("awsSigner: {roots: [{sha256: 90a87d05}]}"), []string{"is no SHA-256"}},
		{"a bare certificate", "whoever can change the file would be trusted", trust("awsSigner: {roots: [{certificateFile: root.pem}]}"), []string{"no fingerprint stands beside it", m.rootSum}},
		{"a certificate with another's fingerprint", "", trust("awsSigner: {roots: [{certificateFile: root.pem, sha256: " + AWSSignerRoot + "}]}"), []string{"and not the one beside it"}},
		{"a certificate inline with another's fingerprint", "", trust("awsSigner:\n    roots:\n    - sha256: " + AWSSignerRoot + "\n      certificate: " + indent(m.otherRoot)), []string{"and not the one beside it"}},
		{"two certificates for one fingerprint", "the second would come along", trust("awsSigner: {roots: [{certificateFile: both.pem, sha256: " + m.rootSum + "}]}"), []string{"there are 2 certificates"}},
		{"a root twice", "", trust("awsSigner: {roots: [{sha256: " + m.rootSum + "}, {sha256: '" + strings.ToUpper(m.rootSum) + "'}]}"), []string{"twice"}},
		{"an endpoint in the clear", "", trust("awsSigner: {endpoint: 'http://x.example'}"), []string{"write https://HOST"}},
		{"an endpoint with a path", "", trust("awsSigner: {endpoint: 'https://x.example/revocations'}"), []string{"write https://HOST"}},
		{"an endpoint with a password", "", trust("awsSigner: {endpoint: 'https://a:b@x.example'}"), []string{"write https://HOST"}},
		{"no evidence", "", trust("awsSigner: {evidenceFile: none.json}"), []string{"none.json"}},
		{"a store without certificates", "", store(""), []string{"the store has no certificates"}},
		{"a store of junk", "", store("certificateFiles: [junk]"), []string{"no certificate that can be read"}},
		{"a store of a leaf", "", store("certificateFiles: [leaf.pem]"), []string{"neither an authority nor its own issuer"}},
		{"a store with AWS Signer's root", "its certificates have one subject for all customers", head + "trust:\n  awsSigner: {roots: [{sha256: " + m.rootSum + "}]}\n  notation: {stores: [{name: corp, certificateFiles: [root.pem]}]}\n" + rules, []string{"AWS Signer's root is not for a store"}},
		{"a time stamping authority that is no root", "", store("certificateFiles: [root.pem], tsaCertificateFiles: [leaf.pem]"), []string{"trusted by its root"}},
		{"a store without a name", "", trust("notation: {stores: [{certificateFiles: [root.pem]}]}"), []string{"name: it is missing"}},
		{"a store with an odd name", "", trust("notation: {stores: [{name: 'a/../b', certificateFiles: [root.pem]}]}"), []string{"no name for a store"}},
		{"two stores of a name", "", trust("notation: {stores: [{name: a, certificateFiles: [root.pem]}, {name: a, certificateFiles: [both.pem]}]}"), []string{"two stores"}},
		{"a trusted root that is none", "", trust("sigstore: {trustedRootFile: junk}"), []string{"no trusted root of Sigstore"}},
		{"sigstore without a root", "", trust("sigstore: {}"), []string{"trustedRootFile: it is missing"}},

		{"an exception without an end", "", exception("{match: [x.example/y], reason: r}"), []string{"exceptions[0].expires: it is missing"}},
		{"an exception without a reason", "", exception("{match: [x.example/y], expires: 2027-01-01}"), []string{"exceptions[0].reason: it is missing"}},
		{"an exception for long", "", exception("{match: [x.example/y], reason: r, expires: 2027-11-29}"), []string{"more than a year ahead"}},
		{"an exception for ever", "", exception("{match: [x.example/y], reason: r, expires: never}"), []string{"is no date"}},
		{"an exception without match", "", exception("{digest: 'sha256:" + strings.Repeat("1", 64) + "', reason: r, expires: 2027-01-01}"), []string{"match: it is missing"}},
		{"an exception for everything", "", exception("{match: ['**'], reason: r, expires: 2027-01-01}"), []string{"images of every registry"}},
		{"an exception for any registry", "", exception("{match: ['*/nops/*'], reason: r, expires: 2027-01-01}"), []string{"images of every registry"}},
		{"an exception for half a digest", "", exception("{match: [x.example/y], digest: 'sha256:11', reason: r, expires: 2027-01-01}"), []string{"is no digest"}},
	}
	if len(refused) < 120 {
		t.Errorf("only %d cases", len(refused))
	}
	secret := strings.Split(strings.TrimSpace(m.private), "\n")[1]
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			p, err := m.parse(tt.document)
			var all *Error
			if err == nil || p != nil || !errors.As(err, &all) || len(all.Problems) == 0 || all.Hint() == "" {
				t.Fatalf("accepted (%s): %+v, %v", tt.reason, p, err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("it does not say %q: %v", s, err)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("it repeats the key: %v", err)
			}
			if !strings.HasPrefix(err.Error(), "policy policy.yaml: ") {
				t.Errorf("it does not say where: %v", err)
			}
		})
	}
}

// TestAllAtOnce: people mend a file once, not once per mistake.
func TestAllAtOnce(t *testing.T) {
	m := newMaterial(t)
	_, err := m.parse("apiVersion: v1\nkind: Policy\nimages:\n- match: [nginx]\n  requires: {}\n  maxAge: x\n- match: ['a.example/b:1']\n  require: {cosignKey: {keyFile: none}}\nexceptions:\n- reason: ''\n")
	var all *Error
	if !errors.As(err, &all) {
		t.Fatal(err)
	}
	const want = `policy policy.yaml: 11 mistakes
  line 1: apiVersion: "v1" is not read by this version; write apiVersion: nopsctl.io/v1
  line 2: kind: "Policy" is not read by this version; write kind: ImagePolicy
  line 4: images[0].match[0]: "nginx": images are known by their full names, and none is called that; did you mean docker.io/library/nginx?
  line 4: images[0].require: it is missing; say by whom these images must be signed; what need not be is an exception with a reason and an end
  line 5: images[0].requires: unknown field; did you mean require? Known are match, require, revocation, maxAge, notBefore
  line 6: images[0].maxAge: "x" is no length of time; write hours or days, such as 720h or 30d
  line 7: images[1].match[0]: "a.example/b:1": a pattern is about names, not tags; leave out :1
  line 8: images[1].require.cosignKey.keyFile: open none: file does not exist; paths are relative to the policy's own directory
  line 10: exceptions[0].expires: it is missing; say when it ends: YYYY-MM-DD, at most a year ahead
  line 10: exceptions[0].match: it is missing; say which images: a list of patterns such as public.ecr.aws/nops/**
  line 10: exceptions[0].reason: it is empty; fill it in, or leave it out`
	if err.Error() != want {
		t.Errorf("%s", err)
	}
	_, err = m.parse(head + "images:\n" + strings.Repeat("- {}\n", 100))
	if lines := strings.Count(err.Error(), "\n"); lines > maxTold+2 || !strings.Contains(err.Error(), "and 160 more") {
		t.Errorf("%d lines: %s", lines, err)
	}
}

func TestAccepted(t *testing.T) {
	m := newMaterial(t)
	p, err := m.parse(head + `
trust:
  awsSigner:
    roots:
    - certificateFile: root.der
      sha256: "` + colons(m.rootSum) + `"
    endpoint: https://vpce.example:8443/
    evidenceFile: revocation.json
    maxEvidenceAge: 1d12h
  notation:
    stores:
    - name: corp
      certificateFiles: [tsa-root.pem]
      tsaCertificateFiles: [tsa-root.pem]
  sigstore: {trustedRootFile: trusted_root.json}
images:
- match: [x.example/a/*, x.example/b]
  require:
    allOf:
    - awsSigner: {profiles: ['` + arn + `/Ab12345678', 'arn:aws-us-gov:signer:us-gov-west-1:123456789012:/aliases/nops-release', 'arn:aws:signer:us-east-1::/aliases/com.example.release', 'arn:aws:signer:::/aliases/com.example.release']}
    - anyOf:
      - notation: {store: corp, subjects: ['C=US, ST=WA, O=Example\, Inc., CN=Release', 'x509.subject: C=US,S=WA,O=Example']}
      - cosignKey: {keyFile: cosign.pub}
      - cosignKey:
          transparencyLog: false
          key: ` + strings.ReplaceAll(indent(m.edwards), "        ", "            ") + `
      - cosignKeyless: {issuer: https://issuer.example, subjectPattern: 'https://github\.com/nops-io/.*'}
  revocation: off
  maxAge: 30d
  notBefore: 2026-01-31
- match: ["**"]
  require: {awsSigner: {profiles: ['` + arn + `']}}
exceptions:
- match: [public.ecr.aws/nops/nvidia/dcgm-exporter]
  reason: published unsigned
  expires: 2026-12-31
`)
	if err != nil {
		t.Fatal(err)
	}
	a := p.Trust.AWSSigner
	if len(a.Roots) != 1 || a.Roots[0] != m.rootSum || a.Endpoint != "https://vpce.example:8443" || a.EvidenceFile != "revocation.json" || string(a.Evidence) != "{}" || a.MaxEvidenceAge != 36*time.Hour {
		t.Errorf("%+v", a)
	}
	if s := p.Trust.Stores; len(s) != 1 || s[0].Name != "corp" || len(s[0].Certificates) != 1 || len(s[0].TSA) != 1 {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(string(p.Trust.Sigstore.TrustedRoot), "trustedroot") {
		t.Errorf("%+v", p.Trust.Sigstore)
	}
	if len(p.Rules) != 2 || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "proves no time") {
		t.Fatalf("%+v, %q", p.Rules, p.Warnings)
	}
	r := p.Rules[0]
	if r.Revocation != RevocationOff || r.MaxAge != 30*24*time.Hour || !r.NotBefore.Equal(time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)) || len(r.Match) != 2 || r.Line == 0 {
		t.Errorf("%+v", r)
	}
	leaves := r.Require.Leaves()
	if len(r.Require.AllOf) != 2 || len(r.Require.AllOf[1].AnyOf) != 4 || len(leaves) != 5 {
		t.Fatalf("%+v", r.Require)
	}
	if leaves[0].Method != MethodAWSSigner || len(leaves[0].Profiles) != 4 || leaves[1].Method != MethodNotation || leaves[1].Store != "corp" || len(leaves[1].Subjects) != 2 || leaves[1].Subjects[1] != "C=US,S=WA,O=Example" {
		t.Errorf("%+v", leaves)
	}
	if leaves[2].Method != MethodCosignKey || !leaves[2].Log || string(leaves[2].Key) != m.public || leaves[3].Log || string(leaves[3].Key) != m.edwards {
		t.Errorf("a key without a word about the log is one with the log: %+v", leaves[2:4])
	}
	if leaves[4].Method != MethodCosignKeyless || leaves[4].Issuer == "" || leaves[4].SubjectPattern == "" || leaves[4].Subject != "" {
		t.Errorf("%+v", leaves[4])
	}
	if p.Rules[1].Revocation != RevocationBestEffort {
		t.Errorf("%+v", p.Rules[1])
	}
	if e := p.Exceptions[0]; !e.Expires.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) || e.Reason != "published unsigned" {
		t.Errorf("%+v", e)
	}
	for name, key := range map[string]string{"RSA": m.rsa, "Ed25519": m.edwards} {
		if _, err := m.parse(rule("cosignKey:\n      key: " + indent(key))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A fingerprint that YAML takes for a number.
	if p, err := m.parse(head + "trust: {awsSigner: {roots: [{sha256: " + strings.Repeat("1", 64) + "}, {sha256: 1e" + strings.Repeat("1", 62) + "}]}}\n" + rules); err != nil || len(p.Trust.AWSSigner.Roots) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}

func colons(sum string) string {
	return strings.TrimSuffix(regexp.MustCompile("..").ReplaceAllString(strings.ToUpper(sum), "$0:"), ":")
}

// TestPagesAndTemplate: what the documentation and the template show is what Parse takes.
func TestPagesAndTemplate(t *testing.T) {
	m := newMaterial(t)
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "verification.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(data), -1)
	if len(blocks) < 2 {
		t.Errorf("docs/verification.md has %d examples", len(blocks))
	}
	seen := map[string]bool{}
	for i, b := range blocks {
		p, err := m.parse(b[1])
		if err != nil {
			t.Errorf("example %d: %v", i, err)
			continue
		}
		if len(p.Warnings) > 0 {
			t.Errorf("example %d: %q", i, p.Warnings)
		}
	}
	for _, name := range regexp.MustCompile(`[a-z][A-Za-z0-9]*:`).FindAllString(blocks[len(blocks)-1][1], -1) {
		seen[strings.TrimSuffix(name, ":")] = true
	}
	for _, field := range []string{"trust", "awsSigner", "roots", "sha256", "endpoint", "evidenceFile", "maxEvidenceAge", "notation", "stores", "sigstore", "images", "match", "require", "anyOf", "allOf", "cosignKey", "keyFile", "transparencyLog", "cosignKeyless", "revocation", "maxAge", "notBefore", "exceptions", "digest", "reason", "expires"} {
		if !seen[field] {
			t.Errorf("the example with everything has no %s", field)
		}
	}

	p, err := m.parse(Example(arn))
	if err != nil {
		t.Fatal(err)
	}
	r, ok := p.RuleFor("public.ecr.aws/nops/vpa")
	if !ok || len(r.Require.Leaves()) != 1 || r.Require.Leaves()[0].Profiles[0] != arn || len(p.Warnings) != 0 {
		t.Errorf("%+v", p)
	}
	// With the marks of comments off, what is only offered must be right, too.
	full := regexp.MustCompile(`(?m)^( *)# ((?: *)(?:- |maxAge|notBefore|exceptions:|require:|cosignKey:|keyFile:|transparencyLog:|reason:|expires:))`).ReplaceAllString(Example(arn), "$1$2")
	p, err = m.parse(full)
	if err != nil || len(p.Rules) != 2 || len(p.Exceptions) != 1 || p.Rules[0].MaxAge == 0 || p.Rules[0].NotBefore.IsZero() {
		t.Errorf("%+v, %v\n%s", p, err, full)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"public.ecr.aws/nops/vpa", "public.ecr.aws/nops/vpa", true},
		{"public.ecr.aws/nops/vpa", "public.ecr.aws/nops/vpa2", false},
		{"public.ecr.aws/nops/vpa", "public.ecr.aws/nops/vpa/evil", false},
		{"public.ecr.aws/nops/vpa", "public.ecr.aws/nops", false},
		{"public.ecr.aws/nops/vpa", "Public.ECR.aws/nops/vpa", false}, // as it is written
		{"public.ecr.aws/nops/*", "public.ecr.aws/nops/vpa", true},
		{"public.ecr.aws/nops/*", "public.ecr.aws/nops/prom/prometheus", false}, // within one part
		{"public.ecr.aws/nops/*", "public.ecr.aws/nops", false},
		{"public.ecr.aws/nops/**", "public.ecr.aws/nops/vpa", true},
		{"public.ecr.aws/nops/**", "public.ecr.aws/nops/prom/prometheus", true},
		{"public.ecr.aws/nops/**", "public.ecr.aws/nops", false}, // one part at least
		{"public.ecr.aws/nops/**", "public.ecr.aws/nops-evil/vpa", false},
		{"public.ecr.aws/nops/**", "public.ecr.aws.evil/nops/vpa", false},
		{"public.ecr.aws/nops/**", "evil.example/public.ecr.aws/nops/vpa", false},
		{"public.ecr.aws/**/vpa", "public.ecr.aws/nops/vpa", true},
		{"public.ecr.aws/**/vpa", "public.ecr.aws/a/b/c/vpa", true},
		{"public.ecr.aws/**/vpa", "public.ecr.aws/vpa", false},
		{"public.ecr.aws/nops/k8s-*-agent", "public.ecr.aws/nops/k8s-heartbeat-agent", true},
		{"public.ecr.aws/nops/k8s-*-agent", "public.ecr.aws/nops/k8s-agent", false}, // characters are not counted twice
		{"public.ecr.aws/nops/k8s-*-agent", "public.ecr.aws/nops/k8s-x/y-agent", false},
		{"*.dkr.ecr.us-west-2.amazonaws.com/nops/*", "123456789012.dkr.ecr.us-west-2.amazonaws.com/nops/vpa", true},
		{"*.dkr.ecr.us-west-2.amazonaws.com/nops/*", "evil.example/x.dkr.ecr.us-west-2.amazonaws.com/nops/vpa", false},
		{"**", "public.ecr.aws/nops/vpa", true},
		{"**", "x.example/y", true},
		{"*/*", "x.example/y", true},
		{"*", "x.example/y", false},
		{"public.ecr.aws/nops/v?a", "public.ecr.aws/nops/vpa", false}, // stars alone are special
		{"public.ecr.aws/nops/[a-z]pa", "public.ecr.aws/nops/vpa", false},
		{"public.ecr.aws/n.ps/vpa", "public.ecr.aws/nops/vpa", false},
		{"", "x.example/y", false},
	} {
		if have := Match(tt.pattern, tt.name); have != tt.want {
			t.Errorf("%q fits %q: %t", tt.pattern, tt.name, have)
		}
	}
	long := strings.Repeat("**/a*a*a*/", 40) + "b"
	if Match(long, strings.Repeat("aaaaaaaaaaaa/", 200)+"c") {
		t.Error("it fits")
	}
}

func TestPatterns(t *testing.T) {
	for _, good := range []string{"**", "*/**", "**/vpa", "public.ecr.aws/nops/**", "localhost/x", "x.example:5000/*", "docker.io/library/*", "docker.io/**", "docker.io/bitnami/nginx", "*.example.com/a", "x.example/a*b/c"} {
		if what, fix := checkPattern(good); what != "" {
			t.Errorf("%q: %s; %s", good, what, fix)
		}
	}
	for bad, says := range map[string]string{
		"": "empty", "*": "/**", "nginx": "docker.io/library/nginx", "nops/vpa": "docker.io/nops/vpa", "docker.io/nginx": "docker.io/library/nginx", "index.docker.io/library/nginx": "docker.io/library/nginx",
		"index.docker.io/nginx": "docker.io/library/nginx", "docker.io/*": "docker.io/library/*", "public.ecr.aws": "public.ecr.aws/**", "localhost:5000": "localhost:5000/**", "public.ecr.aws/nops/vpa:0.1.0": "leave out :0.1.0",
		"public.ecr.aws/nops/vpa@sha256:1": "not digests", "https://public.ecr.aws/nops": "no scheme", "public.ecr.aws/nops**": "whole parts", "public.ecr.aws/***": "whole parts", "public.ecr.aws/NOPS/*": "no image can have such a name",
		"public.ecr.aws//x": "no image can have such a name", "public.ecr.aws/x/": "no image can have such a name", "public.ecr.aws/a b": "no image", "no*/vpa": "begins with a registry's host", strings.Repeat("a", 500): "500 characters",
	} {
		what, fix := checkPattern(bad)
		if what == "" || !strings.Contains(what+"; "+fix, says) {
			t.Errorf("%.60q: %q; %q", bad, what, fix)
		}
	}
}

// TestCovers: a rule that is called unreachable is.
func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		p, q string
		want bool
	}{
		{"a.example/**", "a.example/b", true}, {"a.example/**", "a.example/b/c", true}, {"a.example/**", "a.example/**", true}, {"a.example/**", "a.example/*/x", true}, {"**", "*.example/**", true},
		{"a.example/*", "a.example/b*", true}, {"a.example/*", "a.example/**", false}, {"a.example/b*", "a.example/*", false}, {"a.example/*/**", "a.example/**", false}, {"a.example/x", "a.example/x", true}, {"a.example/x", "a.example/y", false},
	} {
		if have := covers(tt.p, tt.q); have != tt.want {
			t.Errorf("%s covers %s: %t", tt.p, tt.q, have)
		}
	}
	part := rapid.StringMatching(`(\*\*|[ab]{0,2}\*?[ab]{0,2})`)
	pattern := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "parts"), "/") })
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{0,3}`), 1, 5).Draw(t, "parts"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		p, q, n := pattern.Draw(t, "p"), pattern.Draw(t, "q"), name.Draw(t, "name")
		if covers(p, q) && Match(q, n) && !Match(p, n) {
			t.Fatalf("%q covers %q, which fits %q, and it does not", p, q, n)
		}
		if !covers(p, p) && !strings.Contains(p, "***") {
			t.Fatalf("%q does not cover itself", p)
		}
	})
}

func TestRuleFor(t *testing.T) {
	m := newMaterial(t)
	one := func(match, profile string) string {
		return "- match: [" + match + "]\n  require: {awsSigner: {profiles: ['arn:aws:signer:us-east-1:123456789012:/signing-profiles/" + profile + "']}}\n"
	}
	p, err := m.parse(head + "images:\n" + one("public.ecr.aws/nops/vpa", "first") + one("public.ecr.aws/nops/**", "second") + one("public.ecr.aws/nops/prom/*, public.ecr.aws/nops/vpa", "never") + one("'**'", "last"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"public.ecr.aws/nops/vpa": "first", "public.ecr.aws/nops/karpenops": "second", "public.ecr.aws/nops/prom/prometheus": "second", "public.ecr.aws/other/x": "last"} {
		r, ok := p.RuleFor(name)
		if !ok || !strings.HasSuffix(r.Require.Leaf.Profiles[0], "/"+want) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "line 8: this rule can never match: the one in line") {
		t.Errorf("%q", p.Warnings)
	}
	if r, ok := (&Policy{}).RuleFor("x.example/y"); ok || r.Require.Leaf != nil {
		t.Errorf("a policy without rules has one: %+v", r)
	}
}

func TestExceptionFor(t *testing.T) {
	m := newMaterial(t)
	digest, other := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	p, err := m.parse(head + rules + `exceptions:
- {match: [x.example/a], reason: over, expires: 2026-11-01}
- {match: [x.example/b], digest: '` + digest + `', reason: these bytes, expires: 2026-12-31}
- {match: [x.example/c], reason: over, expires: 2026-11-01}
- {match: [x.example/*], digest: '` + digest + `', reason: renewed, expires: 2026-12-31}
- {match: [x.example/d], reason: today, expires: 2026-11-27}
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 2 || !strings.Contains(p.Warnings[0], "ended on 2026-11-01") {
		t.Errorf("%q", p.Warnings)
	}
	for _, tt := range []struct {
		name, image, digest string
		now                 time.Time
		reason              string
		expired, ok         bool
	}{
		{"over", "x.example/a", other, today(), "over", true, false},
		{"over, and renewed for these bytes", "x.example/a", digest, today(), "renewed", false, true},
		{"these bytes", "x.example/b", digest, today(), "these bytes", false, true},
		{"other bytes", "x.example/b", other, today(), "", false, false},
		{"no bytes", "x.example/b", "", today(), "", false, false},
		{"another image", "x.example.evil/b", digest, today(), "", false, false},
		{"on its last day", "x.example/d", other, time.Date(2026, 11, 27, 23, 59, 59, 0, time.UTC), "today", false, true},
		{"the day after", "x.example/d", other, time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC), "today", true, false},
		{"the day after, told in another zone", "x.example/d", other, time.Date(2026, 11, 27, 23, 0, 0, 0, time.FixedZone("", -3600)), "today", true, false},
	} {
		e, expired, ok := p.ExceptionFor(tt.image, tt.digest, tt.now)
		if e.Reason != tt.reason || expired != tt.expired || ok != tt.ok {
			t.Errorf("%s: %+v, %t, %t", tt.name, e, expired, ok)
		}
	}
}

// TestHash: a cache and a lock know a policy by it.
func TestHash(t *testing.T) {
	m := newMaterial(t)
	document := head + "trust: {awsSigner: {evidenceFile: revocation.json}}\nimages:\n- match: [x.example/**]\n  require: {cosignKey: {keyFile: cosign.pub}}\n"
	hash := func(document string) string {
		p, err := m.parse(document)
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash
	}
	first := hash(document)
	if len(first) != 64 || hash(document) != first {
		t.Errorf("%q", first)
	}
	seen := map[string]string{first: "the first"}
	differs := func(what, h string) {
		t.Helper()
		if was, ok := seen[h]; ok {
			t.Errorf("%s and %s have the same hash", what, was)
		}
		seen[h] = what
	}
	differs("another rule", hash(strings.Replace(document, "x.example", "y.example", 1)))
	m.files["revocation.json"] = `{"a":1}`
	differs("other evidence", hash(document))
	m.files["cosign.pub"] = m.rsa
	differs("another key", hash(document))
	// What moves from one file to the other is not the same policy.
	m.files["a"], m.files["b"] = m.root+m.otherRoot, m.ended
	stores := head + "trust: {notation: {stores: [{name: s, certificateFiles: [a, b]}]}}\n" + rules
	differs("stores", hash(stores))
	m.files["a"], m.files["b"] = m.root, m.otherRoot+m.ended
	differs("stores, split elsewhere", hash(stores))
}

// TestFilesAreReadOnce: what was checked is what is used.
func TestFilesAreReadOnce(t *testing.T) {
	m := newMaterial(t)
	reads := 0
	p, err := Parse([]byte(head+"images:\n- match: [x.example/a]\n  require: {cosignKey: {keyFile: k}}\n- match: [x.example/b]\n  require: {cosignKey: {keyFile: k}}\n"), Options{Now: today, Read: func(string) ([]byte, error) {
		if reads++; reads > 1 {
			return []byte(m.rsa), nil
		}
		return []byte(m.public), nil
	}})
	if err != nil || reads != 1 || string(p.Rules[1].Require.Leaf.Key) != m.public {
		t.Errorf("%d reads, %v", reads, err)
	}
	if _, err := Parse([]byte(head+"images:\n- match: [x.example/a]\n  require: {cosignKey: {keyFile: k}}\n"), Options{}); err == nil || !strings.Contains(err.Error(), "cannot name files") {
		t.Errorf("%v", err)
	}
}

func TestWarnings(t *testing.T) {
	m := newMaterial(t)
	for _, tt := range []struct{ name, document, says string }{
		{"another partition without its root", rule("awsSigner: {profiles: ['arn:aws-us-gov:signer:us-gov-west-1:123456789012:/signing-profiles/nops']}"), "partition aws-us-gov"},
		{"a certificate that ended", head + "trust:\n  notation:\n    stores:\n    - name: corp\n      certificates:\n      - " + indent(m.ended) + rules, "ended on 2025-11-27"},
		{"no time to go by", rule("cosignKey: {keyFile: cosign.pub, transparencyLog: false}") + "  notBefore: 2026-01-01\n", "proves no time"},
		{"the same rule twice", head + rules + strings.TrimPrefix(rules, "images:\n"), "can never match"},
	} {
		p, err := m.parse(tt.document)
		if err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], tt.says) || !strings.HasPrefix(p.Warnings[0], "line ") {
			t.Errorf("%s: %v, %+v", tt.name, err, p)
		}
	}
}

func TestAnchored(t *testing.T) {
	for _, tt := range []struct {
		pattern, identity string
		want              bool
	}{
		{`https://github\.com/nops-io/.*`, "https://github.com/nops-io/images", true},
		{`https://github\.com/nops-io/.*`, "https://evil.example/https://github.com/nops-io/images", false},
		{`a|b`, "ab", false}, {`a|b`, "xb", false}, {`a|b`, "b", true}, {`(?i)A`, "a", true}, {`a$|(?m)^b$`, "x\nb", false},
	} {
		if have := regexp.MustCompile(Anchored(tt.pattern)).MatchString(tt.identity); have != tt.want {
			t.Errorf("%q fits %q: %t", tt.pattern, tt.identity, have)
		}
	}
}

// TestSubjectsAreNotarys: what is accepted here is what notation's own trust policies take, and means the same to them.
func TestSubjectsAreNotarys(t *testing.T) {
	accepted := 0
	odd := rapid.OneOf(rapid.Just("S=CA"), rapid.Just("C = DE "), rapid.StringMatching(`[A-Z]{1,2}=[a-c#+;,\\"=*é ]{0,3}`))
	good := rapid.OneOf(rapid.SampledFrom([]string{"CN=Release", "CN=Other", `OU=a\,b`, " L = Seattle "}), rapid.StringMatching(`[X-Z]{1,2}=[a-cé ]{0,3}d`))
	name := rapid.Custom(func(t *rapid.T) string {
		more := good
		if rapid.Bool().Draw(t, "odd") {
			more = odd
		}
		parts := append([]string{"C=US", "ST=WA", "O=Example" + rapid.StringMatching(`[A-Z]?`).Draw(t, "o")}, rapid.SliceOfN(more, 0, 2).Draw(t, "parts")...)
		return strings.Join(rapid.Permutation(parts).Draw(t, "order"), ",")
	})
	rapid.Check(t, func(t *rapid.T) {
		given := rapid.SliceOfN(name, 1, 3).Draw(t, "subjects")
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, s := range given {
			list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s})
		}
		r := &reader{now: today()}
		subjects := r.subjects(list, "subjects")
		if len(r.problems) > 0 {
			return
		}
		accepted++
		var identities []string
		for _, s := range subjects {
			identities = append(identities, "x509.subject:"+s)
		}
		document := trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
			Name: "x", RegistryScopes: []string{"*"}, SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: "strict"}, TrustStores: []string{"ca:x"}, TrustedIdentities: identities,
		}}}
		if err := document.Validate(); err != nil {
			t.Fatalf("%q: %v", given, err)
		}
	})
	t.Logf("%d accepted", accepted)
	if accepted < 10 {
		t.Errorf("only %d accepted", accepted)
	}
}

func FuzzParse(f *testing.F) {
	m := newMaterial(f)
	f.Add([]byte(Example(arn)))
	f.Add([]byte(head + rules))
	f.Add([]byte(rule("anyOf: [{allOf: [{cosignKeyless: {issuerPattern: 'https://a/.*', subject: b}}, {cosignKey: {keyFile: cosign.pub}}]}, {notation: {store: a, subjects: ['C=a,ST=b,O=c']}}]")))
	f.Add([]byte(head + "trust: {awsSigner: {roots: [{sha256: '" + AWSSignerRoot + "'}]}, notation: {stores: [{name: a, certificateFiles: [root.pem]}]}}\nexceptions: [{match: [x.example/y], reason: r, expires: 2027-01-01}]\n" + rules))
	f.Add([]byte(rule("cosignKey:\n      key: " + indent(m.public))))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := m.parse(string(data))
		if err != nil {
			var all *Error
			if p != nil || !errors.As(err, &all) || len(all.Problems) == 0 {
				t.Fatalf("%+v, %v", p, err)
			}
			return
		}
		if len(p.Hash) != 64 || len(p.Rules) == 0 {
			t.Fatalf("%+v", p)
		}
		for _, r := range p.Rules {
			if len(r.Match) == 0 || r.Line == 0 || r.MaxAge < 0 {
				t.Fatalf("%+v", r)
			}
			if r.Revocation != RevocationRequire && r.Revocation != RevocationBestEffort && r.Revocation != RevocationOff {
				t.Fatalf("%+v", r)
			}
			sound(t, r.Require)
		}
		for _, e := range p.Exceptions {
			if len(e.Match) == 0 || e.Reason == "" || e.Expires.IsZero() || e.Expires.After(today().AddDate(1, 0, 2)) {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// sound holds a requirement against the rule that none holds for everybody.
func sound(t *testing.T, r Requirement) {
	set := 0
	for _, is := range []bool{r.Leaf != nil, len(r.AnyOf) > 0, len(r.AllOf) > 0} {
		if is {
			set++
		}
	}
	if set != 1 {
		t.Fatalf("%+v", r)
	}
	for _, one := range append(append([]Requirement(nil), r.AnyOf...), r.AllOf...) {
		sound(t, one)
	}
	if r.Leaf == nil {
		return
	}
	ok := false
	switch l := r.Leaf; l.Method {
	case MethodAWSSigner:
		ok = len(l.Profiles) > 0
		for _, p := range l.Profiles {
			ok = ok && strings.HasPrefix(p, "arn:aws") && !strings.Contains(p, "*")
		}
	case MethodNotation:
		ok = l.Store != "" && len(l.Subjects) > 0
		for _, s := range l.Subjects {
			ok = ok && strings.Contains(s, "=") && !strings.Contains(s, "*")
		}
	case MethodCosignKey:
		block, _ := pem.Decode(l.Key)
		ok = block != nil && block.Type == "PUBLIC KEY"
	case MethodCosignKeyless:
		ok = (l.Issuer != "") != (l.IssuerPattern != "") && (l.Subject != "") != (l.SubjectPattern != "")
		for _, p := range []string{l.IssuerPattern, l.SubjectPattern} {
			if p != "" {
				ok = ok && !regexp.MustCompile(Anchored(p)).MatchString("")
			}
		}
	}
	if !ok {
		t.Fatalf("%+v", r.Leaf)
	}
}
