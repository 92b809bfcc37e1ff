//! Spans of calls, for who logs at debug level.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::cluster::Cluster;
use super::thing::{never, shared};
use crate::context::sleep;

/// Writes down what spans are made, entered and closed.
#[derive(Default)]
struct Book {
    next: AtomicU64,
    lines: Mutex<Vec<String>>,
}

impl Book {
    fn write(&self, line: String) {
        self.lines.lock().expect("no panic").push(line);
    }
}

struct Listener(Arc<Book>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name() == "call"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut line = format!("new {id}");
        span.record(&mut Fields(&mut line));
        self.0.write(line);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.0.write(format!("enter {}", span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        self.0.write(format!("exit {}", span.into_u64()));
    }
}

#[test]
fn each_turn_of_a_call_is_in_the_span_of_that_call() {
    let book = Arc::new(Book::default());
    let lines = tracing::subscriber::with_default(Listener(book.clone()), || {
        let mut cluster = Cluster::new(1);
        let inner = shared(async |_| {
            sleep(Duration::from_millis(1)).await;
            5
        });
        let outer = shared(async move |_| never(2).call(inner).await.expect("served"));
        let mut result = cluster.start(0, never(1).call(outer));
        cluster.pass_ms(5);
        assert_eq!(result.result(), Some(Ok(5)));
        std::mem::take(&mut *book.lines.lock().expect("no panic"))
    });
    let turns = |id: u64| lines.iter().filter(|line| **line == format!("enter {id}")).count();
    let made: Vec<_> = lines.iter().filter(|line| line.starts_with("new")).collect();
    assert_eq!(made.len(), 2, "{lines:?}");
    assert!(made[0].contains("/1") && made[1].contains("/2") && made[0].contains("method="), "{made:?}");
    // One turn to the call or the sleep, one from there to the end; never one within another.
    assert_eq!((turns(1), turns(2)), (2, 2), "{lines:?}");
    let nested = lines.windows(2).any(|two| two[0].starts_with("enter") && two[1].starts_with("enter"));
    assert!(!nested, "{lines:?}");
}
