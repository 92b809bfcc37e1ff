//! `#[message]`: round trips, layouts, nested errors.

use epicserver::__private::{MethodError, Wire, rkyv};
use epicserver::prelude::*;
use epicserver_runtime::codec::{decode, encode_to_vec};

fn round_trip<T: Wire>(value: &T) -> T {
    let bytes = encode_to_vec(value, 4096).expect("it fits");
    decode(&bytes).expect("it was just written")
}

#[message]
#[derive(Clone, Debug, PartialEq)]
struct Profile<T> {
    name: String,
    tags: Vec<T>,
}

#[message]
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Point,
    Circle(f64),
    Box { width: u32, height: u32 },
    Group(Vec<Shape>),
    Pair(Box<Self>, Box<Self>),
}

#[message]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Marker;

#[message]
#[derive(Clone, Debug, PartialEq)]
struct Wrapped(Profile<Marker>, (u8, i64));

#[test]
fn structs_survive() {
    let profile = Profile { name: "Bob: Slayer of armoured cylinders".into(), tags: vec![7u16, 8] };
    assert_eq!(round_trip(&profile), profile);
    let wrapped = Wrapped(Profile { name: String::new(), tags: vec![Marker] }, (1, -2));
    assert_eq!(round_trip(&wrapped), wrapped);
}

#[test]
fn enums_survive_and_may_contain_themselves() {
    let square = Shape::Box { width: 2, height: 2 };
    let group = Shape::Group(vec![Shape::Point, Shape::Circle(0.5), square.clone()]);
    let shape = Shape::Pair(Box::new(group), Box::new(square));
    assert_eq!(round_trip(&shape), shape);
}

#[test]
fn bytes_of_another_shape_are_refused() {
    let bytes = encode_to_vec(&(u64::MAX, u64::MAX), 64).expect("it fits");
    assert!(decode::<Shape>(&bytes).is_err());
}

/// Versions of one type, as two programs would have them.
mod versions {
    macro_rules! version {
        ($module:ident: $($item:tt)*) => {
            pub(super) mod $module {
                use epicserver::prelude::*;
                #[message]
                #[allow(dead_code)]
                $($item)*
            }
        };
    }
    version!(first: pub(crate) struct Item { id: u32, weight: u32 });
    version!(same: pub(crate) struct Item { pub(crate) id: u32, weight: u32 });
    version!(wider: pub(crate) struct Item { id: u32, weight: u64 });
    version!(renamed: pub(crate) struct Item { id: u32, size: u32 });
    version!(swapped: pub(crate) struct Item { weight: u32, id: u32 });
    version!(longer: pub(crate) struct Item { id: u32, weight: u32, more: () });
    version!(variants: pub(crate) enum Item { Id(u32), Weight(u32) });
    version!(fewer_variants: pub(crate) enum Item { Id(u32) });
    version!(deeper: pub(crate) enum Item { Id(u32), More(Vec<Item>) });
    version!(deepest: pub(crate) enum Item { Id(u32), More(Vec<Vec<Item>>) });
}

#[test]
fn a_changed_field_is_another_layout() {
    use versions::*;
    assert_eq!(first::Item::LAYOUT, same::Item::LAYOUT);
    let layouts = [
        first::Item::LAYOUT,
        wider::Item::LAYOUT,
        renamed::Item::LAYOUT,
        swapped::Item::LAYOUT,
        longer::Item::LAYOUT,
        variants::Item::LAYOUT,
        fewer_variants::Item::LAYOUT,
        deeper::Item::LAYOUT,
        deepest::Item::LAYOUT,
        Profile::<u32>::LAYOUT,
        Profile::<u64>::LAYOUT,
    ];
    let distinct: std::collections::BTreeSet<u64> = layouts.into_iter().collect();
    assert_eq!(distinct.len(), layouts.len());
}

#[message(error)]
#[derive(Clone, Debug, PartialEq)]
enum GameError {
    NoLevel,
    Call(#[nested] CallError),
    Both {
        #[nested]
        first: CallError,
        level: u32,
        #[nested]
        second: CallError,
    },
    /// An error of another object's call that the method only reports.
    Report(CallError),
}

impl From<CallError> for GameError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[message(error)]
#[derive(Clone, Debug, PartialEq)]
struct Failure {
    #[nested]
    cause: CallError,
    at: u32,
}

impl From<CallError> for Failure {
    fn from(cause: CallError) -> Self {
        Self { cause, at: 0 }
    }
}

#[message(error)]
#[derive(Clone, Debug, PartialEq)]
struct Opaque;

impl From<CallError> for Opaque {
    fn from(_: CallError) -> Self {
        Self
    }
}

#[test]
fn only_marked_fields_are_nested() {
    let (inner, nested) = (CallError::NotSent, CallError::NotSent.nested());
    assert_eq!(GameError::NoLevel.nested(), GameError::NoLevel);
    assert_eq!(GameError::Call(inner.clone()).nested(), GameError::Call(nested.clone()));
    let both = GameError::Both { first: inner.clone(), level: 3, second: inner.clone() };
    let both_nested = GameError::Both { first: nested.clone(), level: 3, second: nested.clone() };
    assert_eq!(both.nested(), both_nested);
    assert_eq!(GameError::Report(inner.clone()).nested(), GameError::Report(inner.clone()));
    assert_eq!(Failure { cause: inner, at: 7 }.nested(), Failure { cause: nested, at: 7 });
    assert_eq!(Opaque.nested(), Opaque);
}

#[test]
fn errors_survive() {
    let error =
        GameError::Both { first: CallError::SaveFailed, level: 3, second: CallError::NotSent.nested() };
    assert_eq!(round_trip(&error), error);
}

#[test]
fn archives_are_readable_in_place() {
    let bytes = encode_to_vec(&Shape::Box { width: 3, height: 4 }, 64).expect("it fits");
    let archived: &Archived<Shape> = rkyv::access::<_, rkyv::rancor::Error>(&bytes).expect("it is valid");
    assert!(matches!(archived, ArchivedShape::Box { width, .. } if width.to_native() == 3));
}
