//! `#[entity]`: the implementations that make a struct virtual, and the reference to one of its objects.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Item, ItemStruct, Result};

use crate::arguments::{EntityArguments, Save};
use crate::shape::{Layouts, archive_derives, assert_messages, private};

/// The struct with all that belongs to it. After a mistake: its error, and as much as keeps further errors away.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let item = match read(item.clone()) {
        Ok(item) => item,
        Err(error) => return after(&error, item),
    };
    let (arguments, checked) = EntityArguments::parse(arguments, &item.ident);
    let expanded = Expansion::new(&item, &arguments).all();
    match checked {
        Ok(()) => expanded,
        Err(error) => after(&error, expanded),
    }
}

/// The error, and what it was found in.
pub(crate) fn after(error: &syn::Error, item: TokenStream) -> TokenStream {
    let error = error.to_compile_error();
    quote!(#error #item)
}

fn read(item: TokenStream) -> Result<ItemStruct> {
    let item: Item = syn::parse2(item)?;
    let Item::Struct(item) = item else {
        return Err(syn::Error::new(
            item.span(),
            "`#[entity]` goes on a struct: its fields are the state of an object",
        ));
    };
    if !item.generics.params.is_empty() {
        let text = "an entity cannot be generic: its name stands for one type in the whole cluster; \
                    write one struct for each type you need";
        return Err(syn::Error::new(item.generics.span(), text));
    }
    Ok(item)
}

struct Expansion<'a> {
    item: &'a ItemStruct,
    arguments: &'a EntityArguments,
    private: TokenStream,
    name: String,
    reference: syn::Ident,
    key: TokenStream,
}

impl<'a> Expansion<'a> {
    fn new(item: &'a ItemStruct, arguments: &'a EntityArguments) -> Self {
        let name = arguments.name.as_ref().map_or_else(|| item.ident.to_string(), syn::LitStr::value);
        let key = arguments.key.as_ref().map_or_else(|| quote!(::core::primitive::u64), |key| quote!(#key));
        Self { item, arguments, private: private(), name, reference: format_ident!("{}Ref", item.ident), key }
    }

    fn all(&self) -> TokenStream {
        let item = self.item;
        let assertions = assert_messages(&item.ident, item.fields.iter());
        let derives = archive_derives();
        let implementation = self.entity();
        let wire = self.wire();
        let reference = self.reference();
        let test = self.test_of_samples();
        quote! {
            #assertions
            #derives
            #item
            #implementation
            #wire
            #reference
            #test
        }
    }

    /// A test that holds the entity to the samples of what its versions saved.
    fn test_of_samples(&self) -> Option<TokenStream> {
        let Self { item, private, .. } = self;
        let folder = self.arguments.samples.as_ref()?;
        let (entity, path) = (&item.ident, format!("/{}", folder.value()));
        let test = format_ident!("saved_states_of_{}_are_read", entity);
        Some(quote! {
            #[cfg(test)]
            #[test]
            #[allow(non_snake_case)]
            fn #test() {
                #private::check_saved_states::<(#entity,)>(
                    ::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), #path),
                );
            }
        })
    }

    fn entity(&self) -> TokenStream {
        let Self { item, arguments, private, name, reference, key } = self;
        let entity = &item.ident;
        let save = match arguments.save {
            Save::Durable => quote!(Durable),
            Save::BehindMs(ms) => quote!(Behind(#ms)),
            Save::OnIdle => quote!(OnIdle),
            Save::Never => quote!(Never),
        };
        let version = arguments.version;
        let placement = self.placement();
        let idle = arguments.idle_ms.map(|ms| {
            quote! {
                const IDLE_MS: ::core::option::Option<::core::primitive::u64> = ::core::option::Option::Some(#ms);
            }
        });
        let migrations = self.migrations();
        quote! {
            #[automatically_derived]
            impl #private::Entity for #entity {
                type Key = #key;
                type Ref = #reference;
                const NAME: &'static ::core::primitive::str = #name;
                const SAVE: #private::SavePolicy = #private::SavePolicy::#save;
                const VERSION: ::core::primitive::u32 = #version;
                #idle
                #migrations
                fn cell() -> &'static #private::EntityCell {
                    static CELL: #private::EntityCell = #private::EntityCell::new();
                    &CELL
                }
                #placement
            }
        }
    }

    /// From version to version, by `From` of the user's.
    fn migrations(&self) -> Option<TokenStream> {
        let Self { item, arguments, private, .. } = self;
        let entity = &item.ident;
        let all = &arguments.migrations;
        let earlier = all.iter().enumerate().map(|(place, migration)| {
            let (version, state) = (migration.version, &migration.state);
            let later = all[place + 1..].iter().map(|later| &later.state);
            let forth = later.clone().map(|kind| {
                quote_spanned!(kind.span()=> let state: #kind = <#kind as ::core::convert::From<_>>::from(state);)
            });
            let read = quote_spanned! {state.span()=>
                |bytes| {
                    let state: #state = #private::decode_saved::<#state>(bytes)?;
                    #(#forth)*
                    ::core::result::Result::Ok(<#entity as ::core::convert::From<_>>::from(state))
                }
            };
            let write = if migration.goes_back {
                let back = std::iter::once(state).chain(later).rev().map(|kind| {
                    quote_spanned!(kind.span()=> let state = &<#kind as ::core::convert::From<&_>>::from(state);)
                });
                quote! {
                    ::core::option::Option::Some(|state: &#entity, encoder| {
                        #(#back)*
                        encoder.encode(state)
                    })
                }
            } else {
                quote!(::core::option::Option::None)
            };
            quote!(#private::Earlier::new::<#state>(#version, #read, #write))
        });
        let earlier = earlier.collect::<Vec<_>>();
        (!earlier.is_empty()).then(|| {
            quote! {
                #[allow(clippy::all)]
                const EARLIER: &'static [#private::Earlier<Self>] = &[#(#earlier),*];
            }
        })
    }

    fn placement(&self) -> Option<TokenStream> {
        let Self { item, arguments, private, key, .. } = self;
        let entity = &item.ident;
        let function = arguments.partition_by.as_ref()?;
        // Called, not named: so that a function of `&str` fits a key of `String`.
        let function = quote_spanned!(function.span()=> let place: fn(&#key) -> #key = |key| #function(key););
        Some(quote! {
            const PLACED: ::core::primitive::bool = true;
            #[allow(clippy::all)]
            fn placement(key: &#private::Stored<#entity>) -> #private::Stored<#entity> {
                #function
                #private::place::<#key>(key, place)
            }
        })
    }

    fn wire(&self) -> TokenStream {
        let Self { item, private, name, .. } = self;
        let entity = &item.ident;
        let layouts = Layouts { ident: entity, asserted: true, recursive: false };
        let layout = layouts.of_fields(name, &item.fields, 0);
        let fields = layouts.of_fields("", &item.fields, 0);
        quote! {
            #[automatically_derived]
            impl #private::Wire for #entity {
                const LAYOUT: ::core::primitive::u64 = #layout;
                const FIELDS: ::core::primitive::u64 = #fields;
            }
        }
    }

    fn reference(&self) -> TokenStream {
        let Self { item, private, reference, .. } = self;
        let (entity, visibility) = (&item.ident, &item.vis);
        let derives = archive_derives();
        let doc = format!(
            "A reference to a [`{entity}`]: small, cloneable, sendable, storable in state, usable as an argument. \
             Its methods are those of the entity; a call happens when it is awaited or sent."
        );
        let implementations = self.reference_implementations();
        quote! {
            #[doc = #doc]
            #[derive(
                ::core::clone::Clone, ::core::cmp::PartialEq, ::core::cmp::Eq,
                ::core::cmp::PartialOrd, ::core::cmp::Ord, ::core::hash::Hash,
            )]
            #derives
            #[rkyv(attr(doc(hidden), allow(missing_docs)))]
            #[allow(dead_code)]
            #visibility struct #reference(#private::RawRef<#entity>);
            #implementations
        }
    }

    fn reference_implementations(&self) -> TokenStream {
        let Self { item, private, reference, key, .. } = self;
        let (entity, visibility) = (&item.ident, &item.vis);
        quote! {
            #[automatically_derived]
            impl #reference {
                /// The key that names the object.
                #[allow(dead_code)]
                #visibility fn key(&self) -> #key {
                    self.0.key()
                }
            }
            #[automatically_derived]
            impl ::core::convert::From<#private::RawRef<#entity>> for #reference {
                fn from(raw: #private::RawRef<#entity>) -> Self {
                    Self(raw)
                }
            }
            #[automatically_derived]
            impl ::core::convert::AsRef<#private::RawRef<#entity>> for #reference {
                fn as_ref(&self) -> &#private::RawRef<#entity> {
                    &self.0
                }
            }
            #[automatically_derived]
            impl ::core::fmt::Debug for #reference {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    ::core::fmt::Debug::fmt(&self.0, f)
                }
            }
            #[automatically_derived]
            impl #private::Wire for #reference {
                const LAYOUT: ::core::primitive::u64 = <#private::RawRef<#entity> as #private::Wire>::LAYOUT;
            }
        }
    }
}
