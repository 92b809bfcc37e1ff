//! `#[methods]`: the async methods of an `impl` block, callable through references.
//!
//! ```text
//!   impl Player { async fn hit(&self, by: u32) -> bool }          stays
//!   struct __Player_hit<E>                                        stands for the method
//!   impl Handler for __Player_hit<Player>                         its arguments, its result, how it is called
//!   impl PlayerRef { fn hit(&self, by: u32) -> Call<..> }         how callers make it
//!   impl Methods for Player                                       the list of messages
//! ```
//!
//! What is the same for all methods, such as how arguments are written and read, is in the `epicserver` crate, behind
//! `Handler`. The new types lie in a `const _` block, where nobody else's names can meet theirs. They are as visible as
//! their method, and generic over the entity because that may be less visible: so both may be named in what they implement.

mod expand;
mod method;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Ident, ImplItem, ImplItemFn, ItemImpl, Path, Result, Type, parse_quote};

use crate::entity::after;
use crate::shape::{private, take_attributes};
use method::{Callable, Marks, Role};

/// The block and all that makes its methods callable. After mistakes: their errors and what is right.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let (mut block, entity) = match read(arguments, item.clone()) {
        Ok(read) => read,
        Err(error) => return after(&error, item),
    };
    let mut found = Found::default();
    for item in &mut block.items {
        if let ImplItem::Fn(function) = item {
            found.take(function, &entity);
        }
    }
    found.check_any(&block);
    let generated = generate(&entity, &found);
    let expanded = quote!(#block #generated);
    match found.error {
        Some(error) => after(&error, expanded),
        None => expanded,
    }
}

/// The path of the entity and the name of its reference.
struct EntityPath {
    path: Path,
    ident: Ident,
    reference: Path,
}

fn read(arguments: TokenStream, item: TokenStream) -> Result<(ItemImpl, EntityPath)> {
    let wanted = "`#[methods]` goes on an `impl Type { .. }` block of an entity";
    let block: ItemImpl = match syn::parse2(item.clone()) {
        Ok(block) => block,
        // A mistake inside a block is told as it is.
        Err(error) if item.to_string().contains("impl") => return Err(error),
        Err(_) => return Err(syn::Error::new(item.span(), wanted)),
    };
    if !arguments.is_empty() {
        return Err(syn::Error::new(arguments.span(), "`#[methods]` takes no arguments"));
    }
    if let Some((path, _)) = &block.trait_ {
        return Err(syn::Error::new(
            path.span(),
            format!("{wanted}; methods of a trait cannot be called through a reference"),
        ));
    }
    if !block.generics.params.is_empty() {
        return Err(syn::Error::new(block.generics.span(), "an entity cannot be generic"));
    }
    let Type::Path(kind) = &*block.self_ty else {
        return Err(syn::Error::new(block.self_ty.span(), wanted));
    };
    let path = kind.path.clone();
    let plain = kind.qself.is_none() && path.segments.iter().all(|segment| segment.arguments.is_none());
    match (plain, path.segments.last().map(|last| last.ident.clone())) {
        (true, Some(ident)) => {
            Ok((block, EntityPath { reference: reference_path(&path, &ident), path, ident }))
        }
        _ => Err(syn::Error::new(path.span(), wanted)),
    }
}

fn reference_path(path: &Path, ident: &Ident) -> Path {
    let mut reference = path.clone();
    if let Some(last) = reference.segments.last_mut() {
        last.ident = format_ident!("{ident}Ref");
    }
    reference
}

/// What was found in a block.
#[derive(Default)]
struct Found {
    callable: Vec<Callable>,
    on_activate: Option<Callable>,
    on_drop: Option<Callable>,
    error: Option<syn::Error>,
}

impl Found {
    fn take(&mut self, function: &mut ImplItemFn, entity: &EntityPath) {
        let marks = Marks {
            method: take_attributes(&mut function.attrs, "method"),
            on_activate: take_attributes(&mut function.attrs, "on_activate"),
            on_drop: take_attributes(&mut function.attrs, "on_drop"),
        };
        let sorted = method::sort(function, &marks, entity).and_then(|role| self.keep(function, role));
        if let Err(error) = sorted {
            self.fail(error);
        } else if function.sig.asyncness.is_some() {
            // It must be `async` to be callable, whether it awaits something or not.
            function.attrs.push(parse_quote!(#[allow(clippy::unused_async)]));
        }
    }

    fn keep(&mut self, function: &ImplItemFn, role: Role) -> Result<()> {
        let (place, name, hook) = match role {
            Role::Plain => return Ok(()),
            Role::Callable(method) => {
                self.callable.push(method);
                return Ok(());
            }
            Role::OnActivate(hook) => (&mut self.on_activate, "on_activate", hook),
            Role::OnDrop(hook) => (&mut self.on_drop, "on_drop", hook),
        };
        if place.replace(hook).is_some() {
            return Err(syn::Error::new(
                function.sig.ident.span(),
                format!("an entity has one `#[{name}]` hook"),
            ));
        }
        Ok(())
    }

    fn fail(&mut self, error: syn::Error) {
        match &mut self.error {
            Some(first) => first.combine(error),
            None => self.error = Some(error),
        }
    }

    fn check_any(&mut self, block: &ItemImpl) {
        if self.callable.is_empty() && self.error.is_none() {
            let text =
                "no method here can be called: write at least one `async fn` with `&self` or `&mut self`";
            self.fail(syn::Error::new(block.self_ty.span(), text));
        }
    }
}

fn generate(entity: &EntityPath, found: &Found) -> TokenStream {
    let private = private();
    let EntityPath { path, ident, reference } = entity;
    let hooks = found.on_activate.iter().chain(&found.on_drop);
    let handlers = found.callable.iter().chain(hooks).map(|method| expand::handler(method, entity));
    let calls = found.callable.iter().map(|method| expand::call(method, entity));
    let methods = found.callable.iter().map(|method| expand::entry(method, entity, &format_ident!("method")));
    let on_activate =
        found.on_activate.iter().map(|hook| expand::entry(hook, entity, &format_ident!("on_activate")));
    let on_drop = found.on_drop.iter().map(|hook| expand::entry(hook, entity, &format_ident!("on_drop")));
    let numbers = numbers_differ(&found.callable, ident);
    quote! {
        #[allow(nonstandard_style, deprecated, private_interfaces, clippy::all, clippy::pedantic)]
        const _: () = {
            #(#handlers)*
            #[automatically_derived]
            impl #reference {
                #(#calls)*
            }
            #[automatically_derived]
            impl #private::Methods for #path {
                fn describe(table: &mut #private::MethodTable<Self>) {
                    #(#methods)*
                    #(#on_activate)*
                    #(#on_drop)*
                }
            }
            #numbers
        };
    }
}

/// Frames carry a method's number, which is a hash of its name: two equal ones must not be.
fn numbers_differ(methods: &[Callable], entity: &Ident) -> TokenStream {
    let private = private();
    let numbers = methods.iter().map(|method| {
        let (name, conditions) = (&method.name, &method.conditions);
        quote!(#(#conditions)* #private::method_id(#name))
    });
    let text = format!("two methods of `{entity}` have names with the same hash: rename one of them");
    quote! {
        const _: () = ::core::assert!(#private::all_differ(&[#(#numbers),*]), #text);
    }
}

/// The attributes of a method that its other forms carry too.
fn shared_attributes(attributes: &[Attribute]) -> Vec<Attribute> {
    let shared = ["doc", "deprecated"];
    let is_shared = |attribute: &&Attribute| shared.iter().any(|name| attribute.path().is_ident(name));
    attributes.iter().filter(is_shared).cloned().collect()
}

/// `parts` separated by commas.
fn list<T>(parts: impl IntoIterator<Item = T>) -> Punctuated<T, syn::Token![,]> {
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests;
