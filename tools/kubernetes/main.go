// Kubernetes decodes Kubernetes manifests as strictly as an API server with
// fieldValidation=Strict does: a field that the kind does not have, one that is
// there twice, a value of another type and an unknown kind are errors.
//
//	go run -C tools/kubernetes . ../../deploy/kubernetes/*.yaml
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	status := 0
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kubernetes MANIFEST…")
		status = 2
	}
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			status = 1
		}
	}
	os.Exit(status)
}

// check decodes every document of a file. One without any is an error.
func check(path string) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(appsv1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	documents := yaml.NewYAMLReader(bufio.NewReader(file))
	n := 0
	for ; ; n++ {
		text, err := documents.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		_, kind, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return fmt.Errorf("document %d: %w", n+1, err)
		}
		fmt.Printf("%s: document %d is a good %s\n", path, n+1, kind)
	}
	if n == 0 {
		return errors.New("nothing in it")
	}
	return nil
}
