//! Who is there, and how it is told that somebody is not there any more.

use epicserver_transport::{Addr, DownReason, Event, LinkId, Transport};
use epicserver_transport_tipc::{
    ServiceAddress, TipcOptions, TipcTransport, Topology, TopologyEvent, bound_sockets,
};
use std::io;
use std::process::Command;
use std::time::Duration;

fn bind(service: u32, instance: Option<u32>) -> io::Result<TipcTransport> {
    TipcTransport::bind(TipcOptions { service, instance, ..TipcOptions::default() })
}

fn instances(service: u32) -> Vec<u32> {
    let bound = bound_sockets(service, 0..=u32::MAX).expect("a kernel with TIPC");
    let mut instances: Vec<_> = bound.iter().map(|bound| bound.address.instance).collect();
    instances.sort_unstable();
    instances
}

/// The next event, which comes by itself.
fn next(topology: &mut Topology) -> TopologyEvent {
    for _ in 0..100_000 {
        if let Some(event) = topology.poll().expect("the kernel answers") {
            return event;
        }
        std::thread::yield_now();
    }
    panic!("nothing was told");
}

/// Polls until the link is up, then until it is down, which `act` is to cause; says why.
fn down_after(mut transport: TipcTransport, target: &Addr, act: impl FnOnce()) -> DownReason {
    let link = transport.connect(target, 0).expect("room for a link");
    let is_up = |event: &Event, link: LinkId| matches!(event, Event::LinkUp { link: up, .. } if *up == link);
    let (mut events, mut act) = (Vec::new(), Some(act));
    for pass in 0..100_000 {
        transport.poll(pass, &mut events);
        if act.is_some() && events.iter().any(|event| is_up(event, link)) {
            act.take().expect("seen above")();
        }
        if let Some(Event::LinkDown { reason, .. }) = events.last() {
            return *reason;
        }
        if transport.arm() {
            transport.wait(Duration::from_millis(1));
        }
    }
    panic!("the link is not down: {events:?}");
}

#[test]
fn instances_are_chosen_and_found() {
    assert_eq!(instances(70_001), []);
    let (one, other) = (bind(70_001, None).expect("bound"), bind(70_001, Some(7)).expect("bound"));
    assert_ne!(one.local_addr(), other.local_addr());
    assert_eq!(other.local_addr().as_str(), "tipc:70001:7");
    let found = instances(70_001);
    assert!(found.len() == 2 && found.contains(&7), "{found:?}");
    drop(one);
    assert_eq!(instances(70_001), [7]);
}

/// Binding, listening and the topology service are for everybody.
#[test]
fn a_process_needs_no_privilege() {
    let program = std::env::temp_dir().join("transport-tipc-of-nobody");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("room for a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--"])
        .arg(&program)
        .args(["in_guest::topology::instances_are_chosen_and_found", "--exact"])
        .current_dir("/")
        .output()
        .expect("setpriv runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn an_address_that_another_socket_binds_is_refused() {
    let first = bind(70_002, Some(1)).expect("bound");
    let refused = bind(70_002, Some(1)).err().expect("taken");
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    assert!(refused.to_string().contains("tipc:70002:1"), "{refused}");
    drop(first);
    bind(70_002, Some(1)).expect("free again");
}

#[test]
fn numbers_of_the_kernel_are_no_addresses() {
    let refused = bind(1, None).err().expect("the topology service is the kernel's");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

/// A process that starts again with the same address is another socket.
#[test]
fn a_watcher_is_told_of_comings_and_goings() {
    let mut topology = Topology::watch(70_003).expect("a kernel with TIPC");
    assert_eq!(topology.poll().expect("the kernel answers"), None);
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let transport = bind(70_003, Some(5)).expect("bound");
        let TopologyEvent::Published(bound) = next(&mut topology) else { panic!("somebody came") };
        assert_eq!(bound.address, ServiceAddress { service: 70_003, instance: 5 });
        drop(transport);
        assert_eq!(next(&mut topology), TopologyEvent::Withdrawn(bound));
        sockets.push(bound.socket);
    }
    assert_ne!(sockets[0], sockets[1]);
}

#[test]
fn the_end_of_a_process_ends_its_links_at_once() {
    let peer =
        epicserver_transport_tipc::PacketListener::bind(ServiceAddress { service: 70_004, instance: 1 });
    let peer = peer.expect("bound");
    let target = Addr::new("tipc:70004:1");
    let accepting = std::thread::scope(|scope| {
        let accepted = scope.spawn(|| peer.accept().expect("somebody connects"));
        let transport = bind(70_004, None).expect("bound");
        let (sender, receiver) = std::sync::mpsc::channel();
        let ends = scope.spawn(move || {
            let accepted = accepted.join().expect("accepted");
            receiver.recv().expect("told to");
            drop(accepted);
        });
        let reason = down_after(transport, &target, || sender.send(()).expect("somebody listens"));
        ends.join().expect("ended");
        reason
    });
    assert_eq!(accepting, DownReason::ClosedByPeer);
}
