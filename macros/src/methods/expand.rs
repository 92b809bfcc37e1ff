//! The code that one method becomes.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::Ident;
use syn::spanned::Spanned;

use super::method::{Argument, Callable};
use super::{EntityPath, list};
use crate::shape::{assert_message, private};

/// The type that stands for a method, and its `Handler` implementation.
pub(super) fn handler(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let path = &entity.path;
    let handler = handler_ident(method, entity);
    let Callable { conditions, name, visibility, serial, shield, ungated, value, .. } = method;
    let receiver = if method.exclusive { quote!(&'a mut #path) } else { quote!(&'a #path) };
    let arguments = arguments_type(method);
    let assertion = assert_message(&quote!(#handler<#path>), 0, value);
    let run = run(method, entity);
    let (output, flatten) = output(method);
    quote! {
        #(#conditions)*
        #[doc(hidden)]
        #visibility struct #handler<__Entity>(::core::marker::PhantomData<fn() -> __Entity>);
        #(#conditions)*
        #assertion
        #(#conditions)*
        #[automatically_derived]
        impl #private::Handler for #handler<#path> {
            type Entity = #path;
            type Arguments = #arguments;
            type Value = #value;
            type Output = #output;
            type Receiver<'a> = #receiver;
            const NAME: &'static ::core::primitive::str = #name;
            const SERIAL: ::core::primitive::bool = #serial;
            const SHIELD: ::core::primitive::bool = #shield;
            const UNGATED: ::core::primitive::bool = #ungated;
            #[inline]
            fn run<'a>(
                arguments: Self::Arguments,
                object: Self::Receiver<'a>,
            ) -> impl ::core::future::Future<Output = Self::Value> {
                #run
            }
            #[inline]
            fn output(result: ::core::result::Result<Self::Value, #private::CallError>) -> Self::Output {
                #flatten
            }
        }
    }
}

/// The method of the reference that makes a call.
pub(super) fn call(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let EntityPath { path, ident: entity_ident, .. } = entity;
    let handler = handler_ident(method, entity);
    let Callable { ident, conditions, attributes, visibility, arguments, .. } = method;
    let documented = attributes.iter().any(|attribute| attribute.path().is_ident("doc"));
    let doc = (!documented).then(|| format!("Calls [`{entity_ident}`]'s method `{}`.", method.name));
    let doc = doc.map(|doc| quote!(#[doc = #doc]));
    let parameters = list(arguments.iter().map(|Argument { ident, kind, .. }| quote!(#ident: #kind)));
    let values = arguments.iter().map(|Argument { ident, lent, .. }| {
        if *lent { quote!(#private::Lent::owned(#ident),) } else { quote!(#private::Moved(#ident),) }
    });
    quote! {
        #(#conditions)*
        #(#attributes)*
        #doc
        #[allow(dead_code)]
        #[inline]
        #visibility fn #ident(&self, #parameters) -> #private::Call<#private::Message<#handler<#path>>> {
            let message = #private::Message::new((#(#values)*));
            ::core::convert::AsRef::<#private::RawRef<#path>>::as_ref(self).call(message)
        }
    }
}

/// The line that tells the runtime of a method or hook.
pub(super) fn entry(method: &Callable, entity: &EntityPath, kind: &Ident) -> TokenStream {
    let private = private();
    let (handler, path) = (handler_ident(method, entity), &entity.path);
    let conditions = &method.conditions;
    quote!(#(#conditions)* table.#kind::<#private::Message<#handler<#path>>>();)
}

/// The tuple of arguments. It is spelled as if it stood where the arguments do: there it is told if one is no message.
fn arguments_type(method: &Callable) -> TokenStream {
    let private = private();
    let kinds = method.arguments.iter().map(|Argument { kind, lent, .. }| {
        let wrapper = if *lent { quote!(Lent) } else { quote!(Moved) };
        quote!(#private::#wrapper<#kind>,)
    });
    let span = match method.arguments.as_slice() {
        [one] => one.kind.span(),
        _ => method.parentheses,
    };
    let mut tuple = Group::new(Delimiter::Parenthesis, quote!(#(#kinds)*));
    tuple.set_span(span);
    TokenTree::Group(tuple).into()
}

/// The plain call of the method, so that its own future is the task; arguments that are read in place live around it.
fn run(method: &Callable, entity: &EntityPath) -> TokenStream {
    let private = private();
    let (path, ident) = (&entity.path, &method.ident);
    let bound = |number: usize| format_ident!("argument_{number}");
    let names = (0..method.arguments.len()).map(bound);
    let passed = method.arguments.iter().enumerate().map(|(number, argument)| {
        let name = bound(number);
        if argument.lent { quote!(#private::LentArchive::get(&#name)) } else { quote!(#name.0) }
    });
    let call = quote!(#path::#ident(object, #(#passed),*));
    let held: Vec<_> = method.arguments.iter().enumerate().filter(|(_, argument)| argument.lent).collect();
    let unpacked = quote!(let (#(#names,)*) = arguments;);
    if held.is_empty() {
        return quote!(#unpacked #call);
    }
    let held = held.into_iter().map(|(number, _)| bound(number));
    quote! {
        async move {
            #unpacked
            #(let #held = #held.archive();)*
            #call.await
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

/// `__Player_enter_level` for `Player::enter_level`: spelled so that two methods never share one.
fn handler_ident(method: &Callable, entity: &EntityPath) -> Ident {
    format_ident!("__{}_{}", entity.ident, method.name, span = method.ident.span())
}
