//! Chat: rooms that know their members, members that get one-way messages and whose clients wait for them, and errors of the program's own.

use std::fmt;
use std::sync::Arc;

use epicserver::prelude::*;
use tokio::sync::Notify;

#[message(error)]
#[derive(Debug, Clone, PartialEq)]
enum ChatError {
    /// Only members may speak.
    NotAMember,
    /// A call failed.
    Call(#[nested] CallError),
}

impl From<CallError> for ChatError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAMember => f.write_str("only members may speak here"),
            Self::Call(error) => error.fmt(f),
        }
    }
}

#[entity(name = "chat.Room", key = String)]
#[derive(Default)]
struct Room {
    members: Field<Vec<Ref<Member>>>,
    lines: Field<u64>,
}

#[methods]
impl Room {
    async fn join(&self, member: Ref<Member>) {
        self.members.modify(|members| {
            if !members.contains(&member) {
                members.push(member);
            }
        });
    }

    /// Serial: two lines are never told to the members in a different order.
    #[method(serial)]
    async fn say(&self, from: Ref<Member>, text: String) -> Result<u64, ChatError> {
        let members = self.members.get();
        if !members.contains(&from) {
            return Err(ChatError::NotAMember);
        }
        for member in &members {
            member.hear(format!("{}: {text}", from.key())).send()?;
        }
        self.lines.update(|lines| lines + 1);
        Ok(self.lines.get())
    }
}

/// What members have not read yet is not worth saving.
#[entity(name = "chat.Member", key = String, save = never)]
#[derive(Default)]
struct Member {
    unread: Field<Vec<String>>,
    /// Wakes the client that listens; of this activation alone.
    news: Transient<Arc<Notify>>,
}

#[methods]
impl Member {
    async fn hear(&self, line: String) {
        self.unread.modify(|unread| unread.push(line));
        self.news.with(|news| news.notify_one());
    }

    /// What there is to read, and waits until there is something. A client calls it again and again.
    async fn listen(&self) -> Vec<String> {
        loop {
            let unread = self.unread.replace(Vec::new());
            if !unread.is_empty() {
                return unread;
            }
            self.news.get().notified().await;
        }
    }
}

#[epicserver::main(entities(Room, Member))]
async fn main(pool: Pool) -> Result<(), ChatError> {
    let room = pool.get::<Room>("rust");
    let (ada, bob, eve) = (pool.get::<Member>("Ada"), pool.get::<Member>("Bob"), pool.get::<Member>("Eve"));
    room.join(ada.clone()).await?;
    room.join(bob.clone()).await?;
    room.say(ada.clone(), "hello".into()).await?;
    room.say(bob.clone(), "hi Ada".into()).await?;
    assert_eq!(room.say(eve, "let me in".into()).await, Err(ChatError::NotAMember));

    // One-way calls of one room reach one member in order; listen until both are there.
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.extend(ada.listen().await?);
    }
    assert_eq!(heard, ["Ada: hello", "Bob: hi Ada"]);
    println!("Ada heard: {}", heard.join(" / "));
    Ok(())
}
