//! Whole nodes on real threads, over the loopback, TCP, TIPC and InfiniBand verbs, with a link thread and without.

use std::time::Duration;

use epicserver_transport::{Addr, LoopbackNetwork, LoopbackOptions, Transport};
use epicserver_transport_tcp::{TcpOptions, TcpTransport};
use epicserver_transport_tipc::{TipcOptions, TipcTransport};

use super::world::{Add, Chain, Echo, Nap, Post};
use crate::driver::{LinksConfig, TransportThreads, Wait};
use crate::error::Executed;
use crate::node::Node;

fn tcp(count: usize) -> Vec<Box<dyn Transport>> {
    let bind = |_| {
        Box::new(TcpTransport::bind(TcpOptions::default()).expect("a port is free")) as Box<dyn Transport>
    };
    (0..count).map(bind).collect()
}

fn tipc(count: usize) -> Vec<Box<dyn Transport>> {
    let bind = |_| {
        Box::new(TipcTransport::bind(TipcOptions::default()).expect("a kernel with TIPC"))
            as Box<dyn Transport>
    };
    (0..count).map(bind).collect()
}

#[cfg(feature = "rdma")]
fn verbs(count: usize) -> Vec<Box<dyn Transport>> {
    use epicserver_transport_rdma::{RdmaOptions, RdmaTransport};
    let bind = |_| {
        Box::new(RdmaTransport::bind(RdmaOptions::default()).expect("an RDMA device")) as Box<dyn Transport>
    };
    (0..count).map(bind).collect()
}

fn loopback(count: usize, options: &LoopbackOptions) -> Vec<Box<dyn Transport>> {
    let network = LoopbackNetwork::new();
    let bind = |index: usize| {
        let name = format!("node-{index}");
        Box::new(network.bind(&name, options.clone()).expect("the name is free")) as Box<dyn Transport>
    };
    (0..count).map(bind).collect()
}

/// Each form, and both.
const FORMS: [&[TransportThreads]; 3] =
    [&[TransportThreads::Dedicated], &[TransportThreads::Inline], BOTH_FORMS];
/// Nodes of both talk to each other.
const BOTH_FORMS: &[TransportThreads] = &[TransportThreads::Inline, TransportThreads::Dedicated];

fn start(
    transports: Vec<Box<dyn Transport>>,
    cores: u16,
    wait: Wait,
    form: &[TransportThreads],
) -> Vec<Node> {
    let nodes: Vec<Addr> = transports.iter().map(|transport| transport.local_addr().clone()).collect();
    let node = |(transport, threads): (_, &TransportThreads)| {
        let links = LinksConfig { transport, nodes: nodes.clone(), own: None, cluster: 4, secret: [3; 32] };
        let builder = Node::builder().bind::<(Post,)>().cores(cores).wait(wait).pin(false).links(links);
        builder.transport_threads(*threads).start().expect("a node in memory starts")
    };
    transports.into_iter().zip(form.iter().cycle()).map(node).collect()
}

async fn reach_everything(transports: impl Fn() -> Vec<Box<dyn Transport>>, cores: u16) {
    for form in FORMS {
        reach_everything_in(transports(), cores, form).await;
    }
}

async fn reach_everything_in(transports: Vec<Box<dyn Transport>>, cores: u16, form: &[TransportThreads]) {
    let pools_of =
        |transport: &dyn Transport| [Some(transport.pool()), transport.bulk_pool()].map(|pool| pool.cloned());
    let pools: Vec<_> = transports.iter().flat_map(|transport| pools_of(&**transport)).flatten().collect();
    let nodes = start(transports, cores, Wait::Park, form);
    for (round, node) in (1..).zip(&nodes) {
        let pool = node.pool();
        let calls: Vec<_> = (0..400u64).map(|key| pool.get::<Post>(key)).collect();
        let calls = calls.into_iter().map(|post| tokio::spawn(async move { post.call(Add { by: 1 }).await }));
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.expect("no panic"), Ok(round));
        }
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at / 5) as u8).collect();
        for key in 0..8u64 {
            let back = pool.get::<Post>(key).call(Echo { bytes: bytes.clone() }).await;
            assert!(back.as_ref() == Ok(&bytes), "{:?}", back.map(|bytes| bytes.len()));
        }
        let path: Vec<u64> = (1_000..1_020).collect();
        assert_eq!(pool.get::<Post>(999u64).call(Chain { path }).await, Ok(20));
        assert_eq!(pool.get::<Post>(5u64).call(Chain { path: vec![6, 7, 8, 5] }).await, Ok(1_003));
    }
    assert!(nodes.iter().all(|node| node.stats().remote_calls > 100));
    for node in nodes {
        assert!(node.shutdown(Duration::from_secs(5)).await);
    }
    for pool in pools {
        assert_eq!(pool.outstanding(), 0, "every buffer comes back");
    }
}

#[tokio::test]
async fn nodes_over_tcp_reach_every_object() {
    reach_everything(|| tcp(3), 2).await;
}

#[tokio::test]
async fn nodes_over_the_loopback_reach_every_object() {
    reach_everything(|| loopback(2, &LoopbackOptions::plain()), 1).await;
}

#[tokio::test]
async fn nodes_over_counted_receives_reach_every_object() {
    reach_everything(|| loopback(2, &LoopbackOptions::strict()), 2).await;
}

#[tokio::test]
async fn a_node_that_stops_leaves_no_caller_behind() {
    for form in FORMS {
        stop_one_of_two(tcp(2), form).await;
    }
}

/// A kernel with TIPC, and a device of InfiniBand verbs, carry the same.
mod in_guest {
    use super::*;

    #[tokio::test]
    async fn nodes_over_tipc_reach_every_object() {
        reach_everything(|| tipc(3), 2).await;
    }

    #[tokio::test]
    async fn a_node_over_tipc_that_stops_leaves_no_caller_behind() {
        for form in FORMS {
            stop_one_of_two(tipc(2), form).await;
        }
    }

    #[cfg(feature = "rdma")]
    #[tokio::test]
    async fn nodes_over_verbs_reach_every_object() {
        reach_everything_in(verbs(2), 2, BOTH_FORMS).await;
    }

    #[cfg(feature = "rdma")]
    #[tokio::test]
    async fn a_node_over_verbs_that_stops_leaves_no_caller_behind() {
        stop_one_of_two(verbs(2), BOTH_FORMS).await;
    }
}

async fn stop_one_of_two(transports: Vec<Box<dyn Transport>>, form: &[TransportThreads]) {
    let mut nodes = start(transports, 1, Wait::Auto, form);
    let pool = nodes[0].pool();
    let mut naps = tokio::task::JoinSet::new();
    for key in 0..50u64 {
        let post = pool.get::<Post>(key);
        naps.spawn(async move { post.call(Nap { ms: 600_000 }).within(Duration::from_secs(600)).await });
    }
    while nodes[1].stats().calls < 10 {
        tokio::task::yield_now().await;
    }
    let there = nodes[0].stats().remote_calls;
    drop(nodes.pop());
    // Only those can end: the others sleep on the node that goes on.
    for _ in 0..there {
        let nap = tokio::time::timeout(Duration::from_secs(60), naps.join_next()).await;
        let error = nap.expect("it ends").expect("one is left").expect("no panic").unwrap_err();
        assert_ne!(error.executed(), Executed::Yes, "{error}");
    }
}

#[test]
fn a_list_without_oneself_is_refused() {
    let transport = loopback(1, &LoopbackOptions::plain()).remove(0);
    let nodes = vec![Addr::new("elsewhere")];
    let links = LinksConfig { transport, nodes, own: None, cluster: 4, secret: [3; 32] };
    let error = Node::builder().bind::<(Post,)>().cores(1).links(links).start().unwrap_err();
    assert!(error.to_string().contains("node-0"), "{error}");
}

#[test]
fn a_core_drives_the_transport_where_a_thread_more_would_be_one_too_many() {
    let is_inline = |cores, processors| TransportThreads::Auto.is_inline(cores, processors);
    assert!(is_inline(2, 2) && is_inline(1, 1) && !is_inline(1, 2) && !is_inline(3, 8));
}
