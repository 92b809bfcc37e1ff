//! Friends: `partition_by` keeps objects together that talk to each other, on one core of one process, so that calls between
//! them are as cheap as calls get. The same party is held twice, with guests who live anywhere and with friends who live together.

use std::time::Duration;

use epicserver::prelude::*;
use epicserver::{Node, Stats, context};

/// Lives wherever its own key says.
#[entity(name = "friends.Guest", key = String, save = never)]
#[derive(Default)]
struct Guest {
    heard: Field<u64>,
}

#[methods]
impl Guest {
    async fn greet_all(&self, names: Vec<String>) -> Result<u64, CallError> {
        for name in &names {
            context::object::<Guest>(name).hear().await?;
        }
        Ok(names.len() as u64)
    }

    async fn hear(&self) {
        self.heard.update(|heard| heard + 1);
    }
}

/// Lives where its table is: the keys are `table/name`, and all of one table live together.
#[entity(name = "friends.Friend", key = String, save = never, partition_by = table_of)]
#[derive(Default)]
struct Friend {
    heard: Field<u64>,
}

fn table_of(key: &str) -> String {
    key.split('/').next().unwrap_or_default().to_owned()
}

#[methods]
impl Friend {
    async fn greet_all(&self, names: Vec<String>) -> Result<u64, CallError> {
        for name in &names {
            context::object::<Friend>(name).hear().await?;
        }
        Ok(names.len() as u64)
    }

    async fn hear(&self) {
        self.heard.update(|heard| heard + 1);
    }
}

/// The keys of those who sit at a table.
fn seats(table: u32) -> Vec<String> {
    (0..SEATS).map(|seat| format!("table {table}/{seat}")).collect()
}

/// The share of calls that ran on the core that made them, once all are counted. Those of the application come in at any core.
async fn local_share(node: &Node) -> f64 {
    let is_counted = |stats: &Stats| stats.calls >= CALLS;
    while !is_counted(&node.stats()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.stats().local_share().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().bind::<(Guest,)>().cores(CORES).pin(false).start()?;
    for table in 0..TABLES {
        for guest in seats(table) {
            node.pool().get::<Guest>(&guest).greet_all(seats(table)).await?;
        }
    }
    let apart = local_share(&node).await;
    node.shutdown(PATIENCE).await;

    let node = Node::builder().bind::<(Friend,)>().cores(CORES).pin(false).start()?;
    for table in 0..TABLES {
        for friend in seats(table) {
            node.pool().get::<Friend>(&friend).greet_all(seats(table)).await?;
        }
    }
    let together = local_share(&node).await;
    node.shutdown(PATIENCE).await;

    println!(
        "calls that stay on their core: {:.0} % of guests', {:.0} % of friends'",
        apart * 100.0,
        together * 100.0
    );
    assert!(apart < 0.5 && together > 0.9, "{apart} {together}");
    Ok(())
}

const CORES: u16 = 4;
const TABLES: u32 = 30;
const SEATS: u32 = 12;
/// Each seat is called once by the application, and by all of its table.
const CALLS: u64 = (TABLES * SEATS * (SEATS + 1)) as u64;
const PATIENCE: Duration = Duration::from_secs(5);
