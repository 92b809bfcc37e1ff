//! The code that one method becomes.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::Ident;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::method::{Argument, Callable};
use super::{EntityPath, list};
use crate::shape::private;

/// The message struct of a method and its `Method` implementation.
pub(super) fn message(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let message = message_ident(method, entity);
    let conditions = &method.conditions;
    let fields = method.arguments.iter().map(|argument| {
        let (ident, kind) = (&argument.ident, field_type(argument));
        quote!(#ident: #kind,)
    });
    let implementation = implementation(method, entity);
    quote! {
        #(#conditions)*
        #[derive(#private::rkyv::Archive, #private::rkyv::Serialize)]
        #[rkyv(crate = ::epicserver::__private::rkyv, attr(doc(hidden), allow(missing_docs)))]
        #[doc(hidden)]
        pub struct #message<__Entity> {
            #(#fields)*
            __entity: ::core::marker::PhantomData<fn() -> __Entity>,
        }
        #implementation
    }
}

/// The method of the reference that makes a call.
pub(super) fn call(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let EntityPath { path, ident: entity_ident, .. } = entity;
    let message = message_ident(method, entity);
    let Callable { ident, conditions, attributes, visibility, arguments, .. } = method;
    let documented = attributes.iter().any(|attribute| attribute.path().is_ident("doc"));
    let doc = (!documented).then(|| format!("Calls [`{entity_ident}`]'s method `{}`.", method.name));
    let doc = doc.map(|doc| quote!(#[doc = #doc]));
    let parameters = list(arguments.iter().map(|Argument { ident, kind, .. }| quote!(#ident: #kind)));
    let fields = arguments.iter().map(|argument| {
        let ident = &argument.ident;
        if argument.lent { quote!(#ident: #private::Lent::owned(#ident),) } else { quote!(#ident,) }
    });
    quote! {
        #(#conditions)*
        #(#attributes)*
        #doc
        #[allow(dead_code)]
        #[inline]
        #visibility fn #ident(&self, #parameters) -> #private::Call<#message<#path>> {
            let message = #message { #(#fields)* __entity: ::core::marker::PhantomData };
            ::core::convert::AsRef::<#private::RawRef<#path>>::as_ref(self).call(message)
        }
    }
}

/// A hook has no caller to make its message: the runtime does.
pub(super) fn hook_default(hook: &Callable, entity: &EntityPath) -> TokenStream {
    let (message, path) = (message_ident(hook, entity), &entity.path);
    let conditions = &hook.conditions;
    quote! {
        #(#conditions)*
        #[automatically_derived]
        impl ::core::default::Default for #message<#path> {
            fn default() -> Self {
                Self { __entity: ::core::marker::PhantomData }
            }
        }
    }
}

/// The line that tells the runtime of a method or hook.
pub(super) fn entry(method: &Callable, entity: &EntityPath, kind: &Ident) -> TokenStream {
    let (message, path) = (message_ident(method, entity), &entity.path);
    let conditions = &method.conditions;
    quote!(#(#conditions)* table.#kind::<#message<#path>>();)
}

fn implementation(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let path = &entity.path;
    let message = message_ident(method, entity);
    let Callable { conditions, name, serial, shield, value, .. } = method;
    let receiver = if method.exclusive { quote!(&'a mut #path) } else { quote!(&'a #path) };
    let layout = layout(method);
    let run = run(method, entity);
    let (output, flatten) = output(method);
    let decode = decode(method);
    quote! {
        #(#conditions)*
        #[automatically_derived]
        impl #private::Method for #message<#path> {
            type Entity = #path;
            type Value = #value;
            type Output = #output;
            type Receiver<'a> = #receiver;
            const NAME: &'static ::core::primitive::str = #name;
            const SERIAL: ::core::primitive::bool = #serial;
            const SHIELD: ::core::primitive::bool = #shield;
            const LAYOUT: ::core::primitive::u64 = #layout;
            #[inline]
            fn run<'a>(self, object: Self::Receiver<'a>) -> impl ::core::future::Future<Output = Self::Value> {
                #run
            }
            #[inline]
            fn output(result: ::core::result::Result<Self::Value, #private::CallError>) -> Self::Output {
                #flatten
            }
            fn decode(
                archived: &Self::Archived,
                frame: &#private::Frame,
            ) -> ::core::result::Result<Self, #private::CodecError> {
                #decode
            }
        }
    }
}

/// The plain call of the method, so that its own future is the task; arguments that are read in place live around it.
fn run(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let (path, ident) = (&entity.path, &method.ident);
    if method.arguments.iter().all(|argument| !argument.lent) {
        let arguments = method.arguments.iter().map(|Argument { ident, .. }| quote!(self.#ident));
        return quote!(#path::#ident(object, #(#arguments),*));
    }
    let held = method.arguments.iter().filter(|argument| argument.lent).map(|Argument { ident, .. }| {
        let held = held_ident(ident);
        quote!(let #held = self.#ident.archive();)
    });
    let arguments = method.arguments.iter().map(|Argument { ident, lent, .. }| {
        let held = held_ident(ident);
        if *lent { quote!(#private::LentArchive::get(&#held)) } else { quote!(self.#ident) }
    });
    quote! {
        async move {
            #(#held)*
            #path::#ident(object, #(#arguments),*).await
        }
    }
}

fn output(method: &Callable) -> (TokenStream, TokenStream) {
    let private = private();
    let value = &method.value;
    if method.fallible {
        let flatten = quote_spanned!(value.span()=> #private::flatten(result));
        (quote!(#value), flatten)
    } else {
        (quote!(::core::result::Result<#value, #private::CallError>), quote!(result))
    }
}

fn decode(method: &Callable) -> TokenStream {
    let private = private();
    let fields = method.arguments.iter().map(|Argument { ident, kind, lent }| {
        let restored = if *lent {
            quote!(#private::Lent::from_archived(&archived.#ident, frame)?)
        } else {
            quote_spanned!(kind.span()=> #private::restore::<#kind>(&archived.#ident)?)
        };
        quote!(#ident: #restored,)
    });
    quote! {
        let _ = (archived, frame);
        ::core::result::Result::Ok(Self { #(#fields)* __entity: ::core::marker::PhantomData })
    }
}

fn layout(method: &Callable) -> TokenStream {
    let private = private();
    let name = &method.name;
    let parts = method.arguments.iter().map(|Argument { kind, .. }| {
        quote_spanned!(kind.span()=> <<#kind as #private::Sent>::Itself as #private::Wire>::LAYOUT,)
    });
    quote!(#private::layout::combine(#name, &[#(#parts)* <Self::Value as #private::Wire>::LAYOUT]))
}

/// A type that is no message is named once, by a trait that says what to do, instead of once for each derived trait.
fn field_type(argument: &Argument) -> TokenStream {
    let private = private();
    let kind = &argument.kind;
    let checked = quote_spanned!(kind.span()=> <#kind as #private::Sent>::Itself);
    if argument.lent { quote!(#private::Lent<#checked>) } else { checked }
}

fn held_ident(argument: &Ident) -> Ident {
    format_ident!("held_{}", argument.unraw())
}

/// `__Player_enter_level` for `Player::enter_level`: spelled so that two methods never share one.
fn message_ident(method: &Callable, entity: &EntityPath) -> Ident {
    format_ident!("__{}_{}", entity.ident, method.name, span = method.ident.span())
}
