//! What `#[methods]` says of one method, and the message it becomes.
//!
//! Generated code states types and forwards one call; what can be written once for all methods is written here. That
//! also keeps mistakes readable: an argument that cannot be sent is told once, where [`Handler::Arguments`] is stated.

use std::future::Future;

use epicserver_runtime::CallError;
use epicserver_runtime::codec::{CodecError, Wire, WireSerializer, layout, restore};
use epicserver_runtime::entity::{Entity, Method, Receiver};
use epicserver_runtime::lent::Lent;
use epicserver_transport::Frame;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Fallible;
use rkyv::{Archive, Place, Serialize};

use super::Validator;

/// One method of an entity.
pub trait Handler: 'static {
    /// The entity it is a method of.
    type Entity: Entity;
    /// A tuple of [`Moved`] and [`Lent`] arguments.
    type Arguments: Pack;
    /// What the method returns.
    type Value: Wire + Send;
    /// What awaiting a call gives.
    type Output;
    /// `&'a Entity` or `&'a mut Entity`.
    type Receiver<'a>: Receiver<'a, Self::Entity>;
    /// The method's name.
    const NAME: &'static str;
    /// Whether it does not interleave with itself.
    const SERIAL: bool;
    /// Whether it runs to its end although nobody waits for it any more.
    const SHIELD: bool;
    /// Whether its results do not wait until they are durable.
    const UNGATED: bool;
    /// Calls the method.
    fn run<'a>(arguments: Self::Arguments, object: Self::Receiver<'a>) -> impl Future<Output = Self::Value>;
    /// What the caller sees.
    fn output(result: Result<Self::Value, CallError>) -> Self::Output;
}

/// The message of a method; on the wire it is the tuple of the arguments.
pub struct Message<H: Handler> {
    arguments: H::Arguments,
}

type Packed<H> = <<H as Handler>::Arguments as Pack>::Packed;

impl<H: Handler> Message<H> {
    /// A message with these arguments.
    #[inline]
    pub fn new(arguments: H::Arguments) -> Self {
        Self { arguments }
    }
}

impl<H: Handler<Arguments = ()>> Default for Message<H> {
    fn default() -> Self {
        Self::new(())
    }
}

impl<H: Handler> Method for Message<H> {
    type Entity = H::Entity;
    type Value = H::Value;
    type Output = H::Output;
    type Receiver<'a> = H::Receiver<'a>;
    const NAME: &'static str = H::NAME;
    const SERIAL: bool = H::SERIAL;
    const SHIELD: bool = H::SHIELD;
    const UNGATED: bool = H::UNGATED;
    const LAYOUT: u64 = layout::combine(H::NAME, &[Packed::<H>::LAYOUT, H::Value::LAYOUT]);

    #[inline]
    fn run<'a>(self, object: Self::Receiver<'a>) -> impl Future<Output = Self::Value> {
        H::run(self.arguments, object)
    }

    #[inline]
    fn output(result: Result<Self::Value, CallError>) -> Self::Output {
        H::output(result)
    }

    fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError> {
        Packed::<H>::decode(archived, frame).map(|packed| Self::new(Pack::unpack(packed)))
    }
}

impl<H: Handler> Archive for Message<H> {
    type Archived = <Packed<H> as Archive>::Archived;
    type Resolver = <Packed<H> as Archive>::Resolver;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        self.arguments.packed().resolve(resolver, out);
    }
}

impl<S: Fallible + ?Sized, H: Handler<Arguments: Pack<Packed: Serialize<S>>>> Serialize<S> for Message<H> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        self.arguments.packed().serialize(serializer)
    }
}

/// An argument that the method owns.
#[derive(Debug)]
pub struct Moved<T>(pub T);

impl<T: Archive> Archive for Moved<T> {
    type Archived = T::Archived;
    type Resolver = T::Resolver;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        self.0.resolve(resolver, out);
    }
}

impl<S: Fallible + ?Sized, T: Serialize<S>> Serialize<S> for Moved<T> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        self.0.serialize(serializer)
    }
}

/// What a method takes.
pub trait Argument:
    Archive<Archived: for<'a> CheckBytes<Validator<'a>>> + for<'a> Serialize<WireSerializer<'a>> + Send + 'static
{
    /// A hash of its shape.
    const LAYOUT: u64;
    /// Makes it of a validated archive that lies in `frame`.
    ///
    /// # Errors
    /// [`CodecError`] if it cannot be made.
    fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError>
    where
        Self: Sized;
}

impl<T: Wire + Send> Argument for Moved<T> {
    const LAYOUT: u64 = T::LAYOUT;

    fn decode(archived: &T::Archived, _: &Frame) -> Result<Self, CodecError> {
        restore(archived).map(Self)
    }
}

impl<T: Wire + Send> Argument for Lent<T> {
    const LAYOUT: u64 = T::LAYOUT;

    fn decode(archived: &T::Archived, frame: &Frame) -> Result<Self, CodecError> {
        Self::from_archived(archived, frame)
    }
}

/// Every tuple of arguments, and nothing but that: `Packed` is the tuple itself. A tuple that is none is told as that;
/// with [`Arguments`] in this place the compiler would tell of a trait that [`Arguments`] is made of.
pub trait Pack: Send + 'static {
    /// The tuple.
    type Packed: Arguments;
    /// The tuple.
    fn packed(&self) -> &Self::Packed;
    /// The tuple.
    fn unpack(packed: Self::Packed) -> Self;
}

/// All that a method takes: a tuple of up to twelve arguments.
pub trait Arguments:
    Archive<Archived: for<'a> CheckBytes<Validator<'a>>> + for<'a> Serialize<WireSerializer<'a>> + Send + 'static
{
    /// A hash of their shapes.
    const LAYOUT: u64;
    /// Makes them of a validated archive that lies in `frame`.
    ///
    /// # Errors
    /// [`CodecError`] if one cannot be made.
    fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError>
    where
        Self: Sized;
}

impl Arguments for () {
    const LAYOUT: u64 = layout::combine("", &[]);

    fn decode((): &(), _: &Frame) -> Result<Self, CodecError> {
        Ok(())
    }
}

impl Pack for () {
    type Packed = ();

    fn packed(&self) -> &() {
        self
    }

    fn unpack((): ()) -> Self {}
}

macro_rules! arguments {
    ($($name:ident $number:tt),+) => {
        impl<$($name: Argument),+> Arguments for ($($name,)+) {
            const LAYOUT: u64 = layout::combine("", &[$($name::LAYOUT),+]);

            fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError> {
                Ok(($($name::decode(&archived.$number, frame)?,)+))
            }
        }

        impl<$($name: Argument),+> Pack for ($($name,)+) {
            type Packed = Self;

            #[inline]
            fn packed(&self) -> &Self {
                self
            }

            #[inline]
            fn unpack(packed: Self) -> Self {
                packed
            }
        }
    };
}
arguments!(A 0);
arguments!(A 0, B 1);
arguments!(A 0, B 1, C 2);
arguments!(A 0, B 1, C 2, D 3);
arguments!(A 0, B 1, C 2, D 3, E 4);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
