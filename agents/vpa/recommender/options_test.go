package recommender

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// TestOptions: what is not set has a default that works, and everything that is wrong is said at once.
func TestOptions(t *testing.T) {
	minimal := map[string]string{agent.EnvNamespace: "nops"}
	cases := []struct {
		name, reason string
		env          map[string]string
		args         []string
		errs         []string
		check        func(o *Options) bool
	}{
		{"nothing but the namespace", "without a key the local model is all there is", nil, nil, nil, func(o *Options) bool {
			return !o.HasPlatform() && o.Interval == time.Minute && o.Source == SourceKubelet && o.Workers == 10 && o.History == 8*24*time.Hour && !o.KubeletInsecure
		}},
		{"a store", "", map[string]string{EnvSource: SourceStore, EnvStore: "http://prometheus:9090", EnvStoreLabels: "cluster=arn:aws:eks:x, env=prod", EnvStoreUsername: "u", EnvStorePassword: "p"}, nil, nil, func(o *Options) bool {
			return o.StoreLabels["cluster"] == "arn:aws:eks:x" && o.StoreLabels["env"] == "prod" && o.StorePassword == "p"
		}},
		{"credentials of files", "their last line ends", map[string]string{EnvStore: "http://prometheus:9090", EnvStoreUsername: "u\n", EnvStorePassword: " p \r\n"}, nil, nil, func(o *Options) bool {
			return o.StoreUsername == "u" && o.StorePassword == " p "
		}},
		{"a password of nobody", "it would not be sent", map[string]string{EnvStore: "http://prometheus:9090", EnvStorePassword: "canary"}, nil, []string{EnvStoreUsername}, nil},
		{"flags win", "", map[string]string{EnvInterval: "2m"}, []string{"--interval=30s", "--source=metrics-server"}, nil, func(o *Options) bool { return o.Interval == 30*time.Second && o.Source == SourceMetricsServer }},
		{"a key", "then the platform's options count", map[string]string{agent.EnvAPIKey: "4242.c0ffee00c0ffee00c0ffee00c0ffee00"}, nil, []string{"--cluster-arn"}, nil},
		{"many mistakes", "all are said", map[string]string{
			EnvInterval: "soon", EnvSource: "guess", EnvStore: "prometheus:9090", EnvStoreLabels: "cluster,a-b=c", EnvStoreUsername: "u", EnvStoreRegion: "r", EnvWorkers: "many", EnvKubeletInsecure: "perhaps", EnvHistory: "10000h",
		}, nil, []string{EnvInterval, EnvSource, EnvStore, `"cluster" is not name=value`, `"a-b" is no name`, "exclude each other", EnvWorkers, EnvKubeletInsecure, EnvHistory}, nil},
		{"hours of the past", "whole days are read: it would be nothing", map[string]string{EnvHistory: "23h59m"}, nil, []string{EnvHistory, "less would read nothing"}, nil},
		{"a day of the past", "", map[string]string{EnvHistory: "24h"}, nil, nil, func(o *Options) bool { return o.History == 24*time.Hour }},
		{"no past", "", map[string]string{EnvHistory: "0s"}, nil, nil, func(o *Options) bool { return o.History == 0 }},
		{"a store without its address", "", map[string]string{EnvSource: SourceStore}, nil, []string{"--store"}, nil},
		{"credentials in the address", "they would be in logs", map[string]string{EnvStore: "http://u:canary@x"}, nil, []string{"without credentials"}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			env := func(name string) string {
				if v, is := c.env[name]; is {
					return v
				}
				return minimal[name]
			}
			var o Options
			fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.BindFlags(fs, env)
			if err := fs.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			err := o.Validate()
			if len(c.errs) == 0 {
				if err != nil || !c.check(&o) {
					t.Errorf("%+v, %v; %s", o, err, c.reason)
				}
				return
			}
			if err == nil {
				t.Fatalf("%+v is taken; %s", o, c.reason)
			}
			for _, want := range c.errs {
				if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
					t.Errorf("without %q:\n%v", want, err)
				}
			}
		})
	}
	known := map[string]bool{}
	for _, name := range (&Options{}).Environment() {
		if known[name] {
			t.Errorf("%s is named twice", name)
		}
		known[name] = true
	}
	if len(known) < 15 {
		t.Errorf("%d variables", len(known))
	}
}
