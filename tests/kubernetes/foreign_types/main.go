// Whether types of the Prometheus operator and of Flux take what is on standard input: a field that they don't know is an
// error.
//
// Their definitions are not part of a cluster for tests, and their schemas are served by no registry; the types that they
// are generated from are.
package main

import (
	"fmt"
	"io"
	"os"

	flux "github.com/fluxcd/helm-controller/api/v2"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(from io.Reader) error {
	document, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	var known struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &known); err != nil {
		return err
	}
	kinds := map[string]any{
		"HelmRelease":    &flux.HelmRelease{},
		"PodMonitor":     &monitoring.PodMonitor{},
		"ServiceMonitor": &monitoring.ServiceMonitor{},
		"PrometheusRule": &monitoring.PrometheusRule{},
	}
	into, found := kinds[known.Kind]
	if !found {
		return fmt.Errorf("%q is no kind that is looked at here", known.Kind)
	}
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		return fmt.Errorf("%s: %w", known.Kind, err)
	}
	return nil
}
