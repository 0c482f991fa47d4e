package admission

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"
)

var (
	testNames = []string{"nops-vpa-admission-controller.nops.svc", "nops-vpa-admission-controller.nops.svc.cluster.local"} //nolint:gochecknoglobals // constant
	day       = 24 * time.Hour                                                                                             //nolint:gochecknoglobals // constant
)

// again is what the next look at the Secret makes of it.
func again(t *testing.T, m *material, now time.Time) (*material, bool) {
	t.Helper()
	if m != nil {
		data, err := m.write()
		if err != nil {
			t.Fatal(err)
		}
		if m, err = read(data); err != nil {
			t.Fatal(err)
		}
	}
	next, changed, err := renew(m, testNames, Lifetimes{}, now)
	if err != nil {
		t.Fatal(err)
	}
	return next, changed
}

// verifies says whether a bundle trusts what is served.
func verifies(bundle []*x509.Certificate, m *material, now time.Time) bool {
	roots := x509.NewCertPool()
	for _, c := range bundle {
		roots.AddCert(c)
	}
	for _, name := range testNames {
		if _, err := m.serving.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
			return false
		}
	}
	return true
}

// Three years of looks once a day: what is served is trusted on every day, by the bundle of that day and by the one of the day before,
// which API servers may still have; and what was served the day before is trusted by the bundle of today, for replicas that are late.
func TestThreeYears(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m, changed := again(t, nil, start)
	if !changed || len(m.bundle) != 1 || !verifies(m.bundle, m, start) {
		t.Fatalf("the first: %v, %d in the bundle", changed, len(m.bundle))
	}
	authorities, servings, most := 1, 1, 1
	for n := 1; n < 3*365; n++ {
		now := start.Add(time.Duration(n) * day)
		next, changed := again(t, m, now)
		if !verifies(next.bundle, next, now) {
			t.Fatalf("day %d: what is served is not trusted", n)
		}
		if !verifies(next.bundle, m, now) {
			t.Fatalf("day %d: what the other replica serves is not trusted any more", n)
		}
		sameAuthority := next.bundle[0].Equal(m.bundle[0])
		if !sameAuthority {
			authorities++
		} else if !verifies(m.bundle, next, now) {
			t.Fatalf("day %d: renewed under the same authority, and not trusted by yesterday's bundle", n)
		}
		if differs := !next.serving.Leaf.Equal(m.serving.Leaf) || !slices.EqualFunc(next.bundle, m.bundle, (*x509.Certificate).Equal); changed != differs {
			t.Fatalf("day %d: changed is %v", n, changed)
		}
		if !next.serving.Leaf.Equal(m.serving.Leaf) {
			servings++
		}
		most = max(most, len(next.bundle))
		m = next
	}
	// Every 243 days an authority, every 60 a certificate, and the authority before for 122 days more.
	if authorities != 5 || servings < 18 || servings > 25 || most != 2 {
		t.Errorf("%d authorities, %d certificates, at most %d in the bundle", authorities, servings, most)
	}
}

func TestWhatCannotBeUsedIsMadeAnew(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	good, _ := again(t, nil, now)
	other, _ := again(t, nil, now)
	for name, spoil := range map[string]func(data map[string][]byte){
		"nothing in it":             func(data map[string][]byte) { clear(data) },
		"no authority":              func(data map[string][]byte) { delete(data, keyBundle) },
		"garbage for an authority":  func(data map[string][]byte) { data[keyBundle] = []byte("garbage") },
		"no key of the authority":   func(data map[string][]byte) { delete(data, keyAuthority) },
		"another authority's key":   func(data map[string][]byte) { o, _ := other.write(); data[keyAuthority] = o[keyAuthority] },
		"no certificate":            func(data map[string][]byte) { delete(data, keyCertificate) },
		"another certificate's key": func(data map[string][]byte) { o, _ := other.write(); data[keyKey] = o[keyKey] },
		"half a certificate":        func(data map[string][]byte) { data[keyCertificate] = data[keyCertificate][:100] },
	} {
		data, err := good.write()
		if err != nil {
			t.Fatal(err)
		}
		spoil(data)
		if _, err := read(data); err == nil {
			t.Errorf("%s: it can be used", name)
		}
	}
	// A certificate for other names, and one by another authority, are replaced; the authority stays.
	for name, spoil := range map[string]func(m *material){
		"other names":          func(m *material) { m.serving.Leaf.DNSNames = []string{"elsewhere"} },
		"by another authority": func(m *material) { m.serving = other.serving },
	} {
		m, _ := again(t, good, now)
		spoil(m)
		next, changed, err := renew(m, testNames, Lifetimes{}, now)
		if err != nil || !changed || !next.bundle[0].Equal(good.bundle[0]) || !verifies(next.bundle, next, now) {
			t.Errorf("%s: %v, %v", name, changed, err)
		}
	}
	// A clock that was wrong when the authority was made.
	early := now.Add(-400 * day)
	if next, changed := again(t, good, early); !changed || !verifies(next.bundle, next, early) {
		t.Error("an authority of the future is kept")
	}
}
