//! A test's entity whose methods are closures: each call says itself what its method does.
//!
//! The closures lie in a table of the thread, and the message carries a number, so that a message stays one that could
//! be archived and a body may capture what it likes.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use epicserver_transport::Frame;

use crate::codec::{CodecError, Wire, layout};
use crate::entity::{Entity, EntityCell, Method, MethodTable, Methods, RawRef};
use crate::error::CallError;
use crate::field::Field;
use crate::saving::SavePolicy;

/// An object that counts, and that can grow; what it is saved as is its policy's number.
#[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Thing<const POLICY: u8> {
    pub(crate) count: Field<u64>,
    pub(crate) text: Field<String>,
}

pub(crate) const NEVER: u8 = 0;
pub(crate) const DURABLE: u8 = 1;
pub(crate) const BEHIND: u8 = 2;
pub(crate) const ON_IDLE: u8 = 3;
/// Durable, with the hooks that the test sets.
pub(crate) const HOOKED: u8 = 4;
/// Never saved; its hooks borrow it shared and call it.
pub(crate) const SELF_CALLING: u8 = 5;
/// Never saved, and idle after two seconds.
pub(crate) const SHORT_LIVED: u8 = 6;
const POLICIES: usize = 7;
pub(crate) const BEHIND_MS: u64 = 50;

pub(crate) type Never = Thing<NEVER>;
pub(crate) type AllThings = (
    Never,
    Thing<DURABLE>,
    Thing<BEHIND>,
    Thing<ON_IDLE>,
    Thing<HOOKED>,
    Thing<SELF_CALLING>,
    Thing<SHORT_LIVED>,
);

pub(crate) fn never(key: u64) -> RawRef<Never> {
    RawRef::new(key)
}

pub(crate) fn durable(key: u64) -> RawRef<Thing<DURABLE>> {
    RawRef::new(key)
}

pub(crate) fn behind(key: u64) -> RawRef<Thing<BEHIND>> {
    RawRef::new(key)
}

pub(crate) fn on_idle(key: u64) -> RawRef<Thing<ON_IDLE>> {
    RawRef::new(key)
}

pub(crate) fn hooked(key: u64) -> RawRef<Thing<HOOKED>> {
    RawRef::new(key)
}

pub(crate) fn self_calling(key: u64) -> RawRef<Thing<SELF_CALLING>> {
    RawRef::new(key)
}

pub(crate) fn short_lived(key: u64) -> RawRef<Thing<SHORT_LIVED>> {
    RawRef::new(key)
}

impl<const POLICY: u8> Thing<POLICY> {
    /// Counts one more and gives the count, as a `&self` method does.
    pub(crate) fn tick(&self) -> u64 {
        self.count.update(|count| count + 1);
        self.count.get()
    }
}

thread_local! {
    /// Makes the next `Thing::default()` panic.
    pub(crate) static PANIC_IN_DEFAULT: Cell<bool> = const { Cell::new(false) };
    /// Makes the next drop of a `Thing` panic.
    pub(crate) static PANIC_IN_STATE_DROP: Cell<bool> = const { Cell::new(false) };
    static BODIES: RefCell<BTreeMap<u64, Box<dyn Any>>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT_BODY: Cell<u64> = const { Cell::new(1) };
    static HOOKS: RefCell<[Option<Hook>; 2]> = const { RefCell::new([None, None]) };
    static NOTES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Writes down that something happened.
pub(crate) fn note(what: impl Into<String>) {
    NOTES.with_borrow_mut(|notes| notes.push(what.into()));
}

/// What happened since the last time.
pub(crate) fn notes() -> Vec<String> {
    NOTES.take()
}

/// A value whose drop is written down, and panics if it is to.
pub(crate) struct Bomb {
    pub(crate) name: &'static str,
    pub(crate) panics: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        note(format!("{} dropped", self.name));
        assert!(!self.panics, "{} panics in drop", self.name);
    }
}

impl<const POLICY: u8> Default for Thing<POLICY> {
    fn default() -> Self {
        assert!(!PANIC_IN_DEFAULT.replace(false), "the default panics");
        Self { count: Field::new(0), text: Field::new(String::new()) }
    }
}

impl<const POLICY: u8> Drop for Thing<POLICY> {
    fn drop(&mut self) {
        assert!(!PANIC_IN_STATE_DROP.replace(false), "the state panics in drop");
    }
}

impl<const POLICY: u8> Wire for Thing<POLICY> {
    const LAYOUT: u64 = layout::combine("Thing", &[]);
}

impl<const POLICY: u8> Entity for Thing<POLICY> {
    type Key = u64;
    type Ref = RawRef<Self>;
    const NAME: &'static str =
        ["never", "durable", "behind", "on_idle", "hooked", "self_calling", "short_lived"][POLICY as usize];
    const SAVE: SavePolicy = match POLICY {
        NEVER | SELF_CALLING | SHORT_LIVED => SavePolicy::Never,
        BEHIND => SavePolicy::Behind(BEHIND_MS),
        ON_IDLE => SavePolicy::OnIdle,
        _ => SavePolicy::Durable,
    };
    const VERSION: u32 = 1;
    const IDLE_MS: Option<u64> = if POLICY == SHORT_LIVED { Some(2_000) } else { None };
    fn cell() -> &'static EntityCell {
        static CELLS: [EntityCell; POLICIES] = [const { EntityCell::new() }; POLICIES];
        &CELLS[usize::from(POLICY)]
    }
}

impl<const POLICY: u8> Methods for Thing<POLICY> {
    fn describe(table: &mut MethodTable<Self>) {
        table.method::<Shared<POLICY>>();
        table.method::<Exclusive<POLICY>>();
        if POLICY == HOOKED {
            table.on_activate::<Activate<POLICY>>();
            table.on_drop::<Leave<POLICY>>();
        }
        if POLICY == SELF_CALLING {
            table.on_activate::<CallSelf<POLICY, 0>>();
            table.on_drop::<CallSelf<POLICY, 1>>();
        }
    }
}

type Boxed<'a> = Pin<Box<dyn Future<Output = u64> + 'a>>;
type SharedBody<const POLICY: u8> = Box<dyn for<'a> FnOnce(&'a Thing<POLICY>) -> Boxed<'a>>;
type ExclusiveBody<const POLICY: u8> = Box<dyn for<'a> FnOnce(&'a mut Thing<POLICY>) -> Boxed<'a>>;
type Hook = fn(&mut Thing<HOOKED>) -> Boxed<'_>;

/// The number of a closure in the thread's table; dropping it drops the closure.
#[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Body(u64);

impl Body {
    fn keep(body: impl Any) -> Self {
        let number = NEXT_BODY.replace(NEXT_BODY.get() + 1);
        BODIES.with_borrow_mut(|bodies| bodies.insert(number, Box::new(body)));
        Self(number)
    }

    fn take<T: Any>(self) -> T {
        let body = BODIES.with_borrow_mut(|bodies| bodies.remove(&self.0));
        *body.expect("a body is taken once").downcast().expect("it is of the method's kind")
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let unused = BODIES.with_borrow_mut(|bodies| bodies.remove(&self.0));
        drop(unused);
    }
}

macro_rules! method {
    ($message:ident, $make:ident, $receiver:ty, $body:ident, $($rule:ident)?) => {
        #[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub(crate) struct $message<const POLICY: u8> {
            body: Body,
        }

        impl<const POLICY: u8> Method for $message<POLICY> {
            type Entity = Thing<POLICY>;
            type Value = u64;
            type Output = Result<u64, CallError>;
            type Receiver<'a> = $receiver;
            const NAME: &'static str = stringify!($make);
            const LAYOUT: u64 = 1;
            $(const $rule: bool = true;)?
            fn run<'a>(self, thing: Self::Receiver<'a>) -> impl Future<Output = u64> {
                // Not an `async` block: the closure is called in the first poll, as a method's first line is.
                async move { self.body.take::<$body<POLICY>>()(thing).await }
            }
            fn output(result: Result<u64, CallError>) -> Self::Output {
                result
            }
            fn decode(archived: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
                Ok(Self { body: Body(archived.body.0.into()) })
            }
        }

        /// A call of this kind that runs `body`.
        pub(crate) fn $make<const POLICY: u8, F>(body: F) -> $message<POLICY>
        where
            F: for<'a> AsyncFnOnce($receiver) -> u64 + 'static,
        {
            let boxed: $body<POLICY> = Box::new(move |thing| Box::pin(async move { body(thing).await }));
            $message { body: Body::keep(boxed) }
        }
    };
}

method!(Shared, shared, &'a Thing<POLICY>, SharedBody,);
method!(Exclusive, exclusive, &'a mut Thing<POLICY>, ExclusiveBody,);
method!(Serial, serial, &'a Thing<POLICY>, SharedBody, SERIAL);
method!(Shield, shield, &'a Thing<POLICY>, SharedBody, SHIELD);
method!(Ungated, ungated, &'a Thing<POLICY>, SharedBody, UNGATED);

macro_rules! hook {
    ($message:ident, $set:ident, $place:literal) => {
        #[derive(Debug, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub(crate) struct $message<const POLICY: u8> {}

        impl<const POLICY: u8> Method for $message<POLICY> {
            type Entity = Thing<POLICY>;
            type Value = u64;
            type Output = Result<u64, CallError>;
            type Receiver<'a> = &'a mut Thing<POLICY>;
            const NAME: &'static str = stringify!($set);
            const LAYOUT: u64 = 1;
            fn run<'a>(self, thing: Self::Receiver<'a>) -> impl Future<Output = u64> {
                async move {
                    let hook = HOOKS.with_borrow(|hooks| hooks[$place]);
                    match (hook, (thing as &mut dyn Any).downcast_mut::<Thing<HOOKED>>()) {
                        (Some(hook), Some(thing)) => hook(thing).await,
                        _ => 0,
                    }
                }
            }
            fn output(result: Result<u64, CallError>) -> Self::Output {
                result
            }
            fn decode(_: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
                Ok(Self {})
            }
        }

        /// Sets the hook of the hooked things of this thread.
        pub(crate) fn $set(hook: Hook) {
            HOOKS.with_borrow_mut(|hooks| hooks[$place] = Some(hook));
        }
    };
}

hook!(Activate, set_on_activate, 0);
hook!(Leave, set_on_drop, 1);

/// A hook that borrows its object shared, calls it, and goes on for a while.
#[derive(Debug, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct CallSelf<const POLICY: u8, const AT_END: u8> {}

impl<const POLICY: u8, const AT_END: u8> Method for CallSelf<POLICY, AT_END> {
    type Entity = Thing<POLICY>;
    type Value = u64;
    type Output = Result<u64, CallError>;
    type Receiver<'a> = &'a Thing<POLICY>;
    const NAME: &'static str = ["on_activate", "on_drop"][AT_END as usize];
    const LAYOUT: u64 = 1;
    async fn run<'a>(self, _: Self::Receiver<'a>) -> u64 {
        note(format!("{}+", Self::NAME));
        let nested = shared(async |thing: &Thing<POLICY>| {
            note("nested");
            thing.tick()
        });
        let this = crate::context::this::<Thing<POLICY>>();
        let count = this.call(nested).await.expect("shared under shared");
        crate::context::sleep(std::time::Duration::from_millis(2)).await;
        note(format!("{}-", Self::NAME));
        count
    }
    fn output(result: Result<u64, CallError>) -> Self::Output {
        result
    }
    fn decode(_: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
        Ok(Self {})
    }
}
