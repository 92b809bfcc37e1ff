//! One function of a `#[methods]` block: what it is to callers, and what about it cannot be.

use proc_macro2::Span;
use quote::format_ident;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, FnArg, GenericArgument, Ident, ImplItemFn, Pat, Path, PathArguments, Receiver, ReceiverKind,
    Result, ReturnType, Safety, Type, TypeImplTrait, TypeReference, Visibility, parse_quote,
};

use super::{EntityPath, shared_attributes};
use crate::shape::conditions;

/// What a function is to callers.
pub(super) enum Role {
    /// Nothing: it stays a plain function.
    Plain,
    Callable(Callable),
    OnActivate(Callable),
    OnDrop(Callable),
}

/// The attributes of ours that a function carries.
pub(super) struct Marks {
    pub(super) method: Vec<Attribute>,
    pub(super) on_activate: Vec<Attribute>,
    pub(super) on_drop: Vec<Attribute>,
}

/// A method that the runtime can run.
pub(super) struct Callable {
    pub(super) ident: Ident,
    /// Its name in frames.
    pub(super) name: String,
    pub(super) visibility: Visibility,
    /// `#[cfg(..)]`, for everything that is made of it.
    pub(super) conditions: Vec<Attribute>,
    /// Documentation and deprecation, for its form on the reference.
    pub(super) attributes: Vec<Attribute>,
    pub(super) exclusive: bool,
    pub(super) serial: bool,
    pub(super) shield: bool,
    pub(super) ungated: bool,
    pub(super) arguments: Vec<Argument>,
    /// Where the arguments stand.
    pub(super) parentheses: Span,
    pub(super) value: Type,
    /// It returns a `Result`, which is flattened.
    pub(super) fallible: bool,
}

/// An argument of a method.
pub(super) struct Argument {
    pub(super) ident: Ident,
    /// The owned type that callers pass.
    pub(super) kind: Type,
    /// The method takes `&Archived<kind>`.
    pub(super) lent: bool,
}

/// Sorts a function by its signature and its marks.
pub(super) fn sort(function: &ImplItemFn, marks: &Marks, entity: &EntityPath) -> Result<Role> {
    let options = Options::parse(&marks.method)?;
    let hook = marks.on_activate.first().or(marks.on_drop.first());
    let mark = hook.or(marks.method.first());
    if function.sig.asyncness.is_none() || function.sig.receiver().is_none() {
        return match mark {
            Some(mark) => {
                Err(syn::Error::new(mark.span(), "this belongs to an `async fn` with `&self` or `&mut self`"))
            }
            None => Ok(Role::Plain),
        };
    }
    if options.local && hook.is_none() {
        return Ok(Role::Plain);
    }
    let all: Vec<_> = [&marks.on_activate, &marks.on_drop, &marks.method].into_iter().flatten().collect();
    if let (Some(_), [_, other, ..]) = (hook, all.as_slice()) {
        return Err(syn::Error::new(
            other.span(),
            "a hook is nothing else: no `#[method(..)]`, no second hook",
        ));
    }
    let callable = read(function, &options, entity)?;
    match hook {
        None => check_name(&callable).map(|()| Role::Callable(callable)),
        Some(hook) => {
            check_hook(function, hook, &callable)?;
            Ok(if marks.on_activate.is_empty() { Role::OnDrop(callable) } else { Role::OnActivate(callable) })
        }
    }
}

#[derive(Default)]
struct Options {
    serial: Option<Span>,
    shield: bool,
    ungated: bool,
    local: bool,
}

impl Options {
    fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes {
            attribute.parse_nested_meta(|meta| {
                match meta.path.get_ident().map(ToString::to_string).as_deref() {
                    Some("serial") => options.serial = Some(meta.path.span()),
                    Some("shield") => options.shield = true,
                    Some("ungated") => options.ungated = true,
                    Some("local") => options.local = true,
                    _ => {
                        return Err(
                            meta.error("`#[method(..)]` knows `serial`, `shield`, `ungated` and `local`")
                        );
                    }
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

fn read(function: &ImplItemFn, options: &Options, entity: &EntityPath) -> Result<Callable> {
    let signature = &function.sig;
    check_signature(function)?;
    let exclusive = match signature.receiver() {
        Some(receiver) => is_exclusive(receiver)?,
        None => false,
    };
    if let (true, Some(serial)) = (exclusive, options.serial) {
        return Err(syn::Error::new(serial, "a `&mut self` method never interleaves: leave `serial` out"));
    }
    let mut arguments = Vec::new();
    for (number, input) in signature.inputs.iter().enumerate() {
        if let FnArg::Typed(input) = input {
            arguments.push(read_argument(&input.pat, &input.ty, number, entity)?);
        }
    }
    if arguments.len() > ARGUMENTS_MAX {
        let text = "a method takes at most 12 arguments: put them into a `#[message]` struct";
        return Err(syn::Error::new(signature.ident.span(), text));
    }
    let value = read_return(&signature.output, entity)?;
    Ok(Callable {
        ident: signature.ident.clone(),
        name: signature.ident.unraw().to_string(),
        visibility: function.vis.clone(),
        conditions: conditions(&function.attrs).into_iter().cloned().collect(),
        attributes: shared_attributes(&function.attrs),
        exclusive,
        serial: options.serial.is_some(),
        shield: options.shield,
        ungated: options.ungated,
        arguments,
        parentheses: signature.paren_token.span.join(),
        fallible: last_segment(&value).is_some_and(|ident| ident == "Result"),
        value,
    })
}

fn check_signature(function: &ImplItemFn) -> Result<()> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        let text = "a method that is called through a reference cannot be generic: name the types, \
                    or keep it to yourself with `#[method(local)]`";
        let span = if signature.generics.params.is_empty() {
            signature.ident.span()
        } else {
            signature.generics.span()
        };
        return Err(syn::Error::new(span, text));
    }
    if !matches!(signature.safety, Safety::Default) || signature.abi.is_some() {
        let text = "a method that is called through a reference cannot be `unsafe` or `extern`";
        return Err(syn::Error::new(signature.ident.span(), text));
    }
    Ok(())
}

fn is_exclusive(receiver: &Receiver) -> Result<bool> {
    match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => Ok(mutability.is_some()),
        _ => {
            let text = "an object cannot be moved into a call: take `&self` (interleaves with other calls) \
                        or `&mut self` (excludes them)";
            Err(syn::Error::new(receiver.span(), text))
        }
    }
}

fn check_name(method: &Callable) -> Result<()> {
    if RESERVED.contains(&method.name.as_str()) {
        let text = format!("every reference has a method `{}` of its own: choose another name", method.name);
        return Err(syn::Error::new(method.ident.span(), text));
    }
    Ok(())
}

/// As many as `Arguments` is implemented for.
const ARGUMENTS_MAX: usize = 12;

/// What callers expect of every reference, which a method of the same name would hide.
const RESERVED: [&str; 2] = ["key", "clone"];

fn check_hook(function: &ImplItemFn, hook: &Attribute, method: &Callable) -> Result<()> {
    let returns_nothing = matches!(&method.value, Type::Tuple(tuple) if tuple.elems.is_empty());
    if !method.exclusive || !method.arguments.is_empty() || !returns_nothing {
        let name = hook.path().get_ident().map(ToString::to_string).unwrap_or_default();
        let text =
            format!("`#[{name}]` goes on `async fn {}(&mut self)`: no arguments, no result", method.ident);
        return Err(syn::Error::new(function.sig.ident.span(), text));
    }
    Ok(())
}

fn read_argument(pattern: &Pat, kind: &Type, number: usize, entity: &EntityPath) -> Result<Argument> {
    let ident = match pattern {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => pattern.ident.clone(),
        _ => format_ident!("argument_{number}", span = pattern.span()),
    };
    let lent = lent_type(kind);
    let mut owned = lent.unwrap_or(kind).clone();
    if let Some(problem) = Problem::find(&owned) {
        return Err(problem.in_argument());
    }
    NameSelf(&entity.path).visit_type_mut(&mut owned);
    Ok(Argument { ident, kind: owned, lent: lent.is_some() })
}

/// The `T` of `&Archived<T>`.
fn lent_type(kind: &Type) -> Option<&Type> {
    let Type::Reference(TypeReference { elem, mutability: None, .. }) = kind else { return None };
    let Type::Path(path) = &**elem else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Archived")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match (arguments.args.len(), arguments.args.first()) {
        (1, Some(GenericArgument::Type(kind))) => Some(kind),
        _ => None,
    }
}

fn read_return(output: &ReturnType, entity: &EntityPath) -> Result<Type> {
    let ReturnType::Type(_, kind) = output else { return Ok(parse_quote!(())) };
    if let Some(problem) = Problem::find(kind) {
        return Err(problem.in_return());
    }
    let mut kind = (**kind).clone();
    NameSelf(&entity.path).visit_type_mut(&mut kind);
    Ok(kind)
}

fn last_segment(kind: &Type) -> Option<&Ident> {
    match kind {
        Type::Path(path) => path.path.segments.last().map(|last| &last.ident),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

/// What makes a type unfit to be moved between nodes, as far as its spelling tells.
enum Problem {
    Borrowed(Span),
    Anonymous(Span),
}

impl Problem {
    fn find(kind: &Type) -> Option<Self> {
        let mut search = Search(None);
        search.visit_type(kind);
        search.0
    }

    fn in_argument(&self) -> syn::Error {
        let (span, text) = match self {
            Self::Borrowed(span) => (
                span,
                "arguments are moved: take `String` instead of `&str`, or `&Archived<T>` to read in place",
            ),
            Self::Anonymous(span) => (span, "name the type of the argument: other nodes must know it"),
        };
        syn::Error::new(*span, text)
    }

    fn in_return(&self) -> syn::Error {
        let (span, text) = match self {
            Self::Borrowed(span) => (span, "results are moved: return `String` instead of `&str`"),
            Self::Anonymous(span) => (span, "name the type of the result: other nodes must know it"),
        };
        syn::Error::new(*span, text)
    }
}

struct Search(Option<Problem>);

impl<'ast> Visit<'ast> for Search {
    fn visit_type_reference(&mut self, kind: &'ast TypeReference) {
        self.0.get_or_insert(Problem::Borrowed(kind.span()));
    }

    fn visit_type_impl_trait(&mut self, kind: &'ast TypeImplTrait) {
        self.0.get_or_insert(Problem::Anonymous(kind.span()));
    }

    fn visit_type(&mut self, kind: &'ast Type) {
        if matches!(kind, Type::Infer(_)) {
            self.0.get_or_insert(Problem::Anonymous(kind.span()));
        }
        visit::visit_type(self, kind);
    }
}

/// Replaces `Self`, which means another type where the generated code stands.
struct NameSelf<'a>(&'a Path);

impl VisitMut for NameSelf<'_> {
    fn visit_path_mut(&mut self, path: &mut Path) {
        if path.segments.first().is_some_and(|first| first.ident == "Self") {
            let rest = std::mem::take(&mut path.segments).into_iter().skip(1);
            path.segments = self.0.segments.iter().cloned().chain(rest).collect();
            path.leading_colon = self.0.leading_colon;
        }
        visit_mut::visit_path_mut(self, path);
    }
}
