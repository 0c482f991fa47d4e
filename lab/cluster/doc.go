// Package cluster runs a real Kubernetes on one Linux machine: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler, containerd, kubelet, kube-proxy and CoreDNS, all upstream, in PID, mount, network, IPC and UTS
// namespaces of their own under one init process.
//
// Start re-executes the caller's binary as that init (the caller dispatches "__init" to RunInit). The network namespace
// has no route out. The host reaches services because Start opens the listening sockets in the host's network namespace
// and hands their descriptors to the init, which dials inside. Killing the init removes every process, mount, interface
// and rule in one step; what is left – the state directory and cgroup directories under one root – Remove deletes.
//
// Inside, every port is fixed, since the network is the lab's own; on the host, every port is whatever was free.
package cluster
