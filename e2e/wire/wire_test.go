// Package wire compares proto/api.proto with the descriptors that the Kubernetes project publishes in
// the Go module k8s.io/cri-api: whatever either has, the other must have too, alike in everything
// that shows on the wire or in generated code.
package wire

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ours compiles proto/api.proto with the protoc that the C++ build uses.
func ours(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	set := filepath.Join(t.TempDir(), "api.pb")
	cmd := exec.Command("protoc", "-I../../proto", "--descriptor_set_out="+set, "api.proto")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile proto/api.proto: %v\n%s", err, out)
	}
	bytes, err := os.ReadFile(set)
	if err != nil {
		t.Fatal(err)
	}
	var files descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(bytes, &files); err != nil {
		t.Fatal(err)
	}
	file, err := protodesc.NewFile(files.File[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func theirs() protoreflect.FileDescriptor {
	return cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto
}

// describe lists everything a file defines, one fact a line, keyed by full name.
func describe(file protoreflect.FileDescriptor) map[string]string {
	facts := map[string]string{"package": string(file.Package()), "syntax": file.Syntax().String()}
	describeEnums(facts, file.Enums())
	describeMessages(facts, file.Messages())
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		facts["service "+string(service.FullName())] = "exists"
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			facts["rpc "+string(m.FullName())] = fmt.Sprintf("%s (client stream %v) -> %s (server stream %v)",
				m.Input().FullName(), m.IsStreamingClient(), m.Output().FullName(), m.IsStreamingServer())
		}
	}
	return facts
}

func describeEnums(facts map[string]string, enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		enum := enums.Get(i)
		facts["enum "+string(enum.FullName())] = "exists"
		for j := range enum.Values().Len() {
			value := enum.Values().Get(j)
			facts[fmt.Sprintf("enum %s value %s", enum.FullName(), value.Name())] = fmt.Sprint(value.Number())
		}
	}
}

func describeMessages(facts map[string]string, messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		message := messages.Get(i)
		facts["message "+string(message.FullName())] = fmt.Sprintf("map entry: %v, oneofs: %d",
			message.IsMapEntry(), message.Oneofs().Len())
		for j := range message.Fields().Len() {
			facts["field "+string(message.Fields().Get(j).FullName())] = describeField(message.Fields().Get(j))
		}
		describeEnums(facts, message.Enums())
		describeMessages(facts, message.Messages())
	}
}

func describeField(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	if f.Message() != nil {
		kind = string(f.Message().FullName())
	} else if f.Enum() != nil {
		kind = string(f.Enum().FullName())
	}
	options, _ := f.Options().(*descriptorpb.FieldOptions)
	return fmt.Sprintf("%s %s = %d, json %s, packed %v, presence %v, deprecated %v",
		f.Cardinality(), kind, f.Number(), f.JSONName(), f.IsPacked(), f.HasPresence(), options.GetDeprecated())
}

func TestOurContractEqualsThePublishedOneInBothDirections(t *testing.T) {
	our, their := describe(ours(t)), describe(theirs())
	var differences []string
	for name, fact := range their {
		if our[name] == "" {
			differences = append(differences, fmt.Sprintf("%s is missing (%s)", name, fact))
		} else if our[name] != fact {
			differences = append(differences, fmt.Sprintf("%s is %q, should be %q", name, our[name], fact))
		}
	}
	for name := range our {
		if their[name] == "" {
			differences = append(differences, name+" is not in the published contract")
		}
	}
	sort.Strings(differences)
	if len(differences) > 0 {
		t.Errorf("%d differences:\n%s", len(differences), strings.Join(differences, "\n"))
	}
	if len(our) < 800 {
		t.Errorf("only %d facts compared: the comparison itself is broken", len(our))
	}
}

func TestThereAre43Calls(t *testing.T) {
	file, calls := ours(t), 0
	for i := range file.Services().Len() {
		calls += file.Services().Get(i).Methods().Len()
	}
	if calls != 43 {
		t.Errorf("%d RPCs, want 43", calls)
	}
}

func TestAnEnvironmentValueThatIsNotUTF8PassesThrough(t *testing.T) {
	sent := &cri.KeyValue{Key: "BYTES", Value: []byte{0xff, 0xfe, 0x80}}
	wire, err := proto.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	message := ours(t).Messages().ByName("KeyValue")
	got := dynamicpb.NewMessage(message)
	if err := proto.Unmarshal(wire, got); err != nil {
		t.Fatalf("our contract refuses bytes that are not UTF-8: %v", err)
	}
	if value := got.Get(message.Fields().ByName("value")).Bytes(); string(value) != string(sent.Value) {
		t.Errorf("value became %x", value)
	}
}
