//! `#[message]`: values that cross calls, and errors that methods return.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, GenericParam, Ident, Member, Result, parse_quote};

use crate::entity::after;
use crate::shape::{Layouts, archive_derives, assert_messages, mentions, private, take_attributes};

/// The type with all that makes it a message. After a mistake: its error and the type.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let (error, argument_checked) = parse_arguments(arguments);
    let mut input: DeriveInput = match syn::parse2(item.clone()) {
        Ok(input) => input,
        Err(error) => return after(&error, item),
    };
    let nested = take_nested(&mut input);
    let checked = argument_checked.and_then(|()| check(&input, error, &nested));
    if let Err(error) = checked {
        return after(&error, quote!(#input));
    }
    let method_error = error.then(|| method_error(&input, &nested));
    let wire = wire(&input);
    let recursion = recursion_bounds(&mut input);
    let assertions = (!is_generic(&input))
        .then(|| assert_messages(&input.ident, variants(&input).flat_map(|(_, fields)| fields)));
    let derives = archive_derives();
    quote! {
        #assertions
        #derives
        #recursion
        #input
        #wire
        #method_error
    }
}

fn parse_arguments(arguments: TokenStream) -> (bool, Result<()>) {
    let mut error = false;
    let parsed = syn::meta::parser(|meta| {
        error |= meta.path.is_ident("error");
        if error { Ok(()) } else { Err(meta.error("`#[message]` knows one argument: `#[message(error)]`")) }
    });
    let checked = parsed.parse2(arguments);
    (error, checked)
}

/// A field with `#[nested]`, and the variant it is in.
struct Nested {
    variant: Option<Ident>,
    member: Member,
    attribute: proc_macro2::Span,
}

/// Takes the `#[nested]` marks off the fields.
fn take_nested(input: &mut DeriveInput) -> Vec<Nested> {
    let mut nested = Vec::new();
    let mut take = |variant: Option<&Ident>, fields: &mut Fields| {
        for (number, field) in fields.iter_mut().enumerate() {
            let member = field.ident.clone().map_or_else(|| Member::from(number), Member::from);
            for attribute in take_attributes(&mut field.attrs, "nested") {
                nested.push(Nested {
                    variant: variant.cloned(),
                    member: member.clone(),
                    attribute: attribute.span(),
                });
            }
        }
    };
    match &mut input.data {
        Data::Struct(data) => take(None, &mut data.fields),
        Data::Enum(data) => data.variants.iter_mut().for_each(|one| take(Some(&one.ident), &mut one.fields)),
        Data::Union(_) => {}
    }
    nested
}

fn check(input: &DeriveInput, error: bool, nested: &[Nested]) -> Result<()> {
    if let Data::Union(data) = &input.data {
        return Err(syn::Error::new(data.union_token.span, "`#[message]` goes on a struct or an enum"));
    }
    for parameter in &input.generics.params {
        if !matches!(parameter, GenericParam::Type(_)) {
            let text = "a message may be generic over types only: it owns all it holds";
            return Err(syn::Error::new(parameter.span(), text));
        }
    }
    match nested.first() {
        Some(mark) if !error => Err(syn::Error::new(
            mark.attribute,
            "`#[nested]` belongs to errors: write `#[message(error)]` on the type",
        )),
        _ => Ok(()),
    }
}

fn is_generic(input: &DeriveInput) -> bool {
    !input.generics.params.is_empty()
}

/// The variants with their names; a struct is one without a name.
fn variants(input: &DeriveInput) -> impl Iterator<Item = (String, &Fields)> {
    let all: Vec<(String, &Fields)> = match &input.data {
        Data::Struct(data) => vec![(String::new(), &data.fields)],
        Data::Enum(data) => data.variants.iter().map(|one| (one.ident.to_string(), &one.fields)).collect(),
        Data::Union(_) => Vec::new(),
    };
    all.into_iter()
}

fn wire(input: &DeriveInput) -> TokenStream {
    let private = private();
    let ident = &input.ident;
    let layout = layout(input);
    let fields = matches!(input.data, Data::Struct(_)).then(|| {
        let fields = fields_layout(input);
        quote!(const FIELDS: ::core::primitive::u64 = #fields;)
    });
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::epicserver::__private::Wire));
    }
    let (_, names, _) = input.generics.split_for_impl();
    if is_generic(input) {
        generics.make_where_clause().predicates.push(parse_quote! {
            #ident #names: #private::rkyv::Archive<Archived: for<'a> #private::CheckBytes<#private::Validator<'a>>
                    + #private::rkyv::Deserialize<#ident #names, #private::Deserializer>>
                + for<'a> #private::rkyv::Serialize<#private::WireSerializer<'a>>
                + 'static
        });
    }
    let (implemented, _, conditions) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #implemented #private::Wire for #ident #names #conditions {
            const LAYOUT: ::core::primitive::u64 = #layout;
            #fields
        }
    }
}

/// The layout of a struct without its name.
fn fields_layout(input: &DeriveInput) -> TokenStream {
    let layouts = layouts(input);
    variants(input).map(|(name, fields)| layouts.of_fields(&name, fields, 0)).collect()
}

fn layouts(input: &DeriveInput) -> Layouts<'_> {
    Layouts { ident: &input.ident, asserted: !is_generic(input), recursive: true }
}

fn layout(input: &DeriveInput) -> TokenStream {
    let private = private();
    let name = input.ident.to_string();
    let parameters = input.generics.type_params().map(|parameter| &parameter.ident);
    let parameters = quote!(#(<#parameters as #private::Wire>::LAYOUT,)*);
    let layouts = layouts(input);
    let mut first = 0;
    let parts: Vec<_> = variants(input)
        .map(|(name, fields)| {
            let part = layouts.of_fields(&name, fields, first);
            first += fields.len();
            part
        })
        .collect();
    quote!(#private::layout::combine(#name, &[#parameters #(#parts),*]))
}

/// Lets a type contain itself (`Box<Tree>`, `Vec<Tree>`): the compiler cannot derive the bounds of such fields.
fn recursion_bounds(input: &mut DeriveInput) -> Option<TokenStream> {
    let ident = input.ident.clone();
    let mut found = false;
    let mut mark = |fields: &mut Fields| {
        for field in fields.iter_mut().filter(|field| mentions(&field.ty, &ident)) {
            field.attrs.push(parse_quote!(#[rkyv(omit_bounds)]));
            found = true;
        }
    };
    match &mut input.data {
        Data::Struct(data) => mark(&mut data.fields),
        Data::Enum(data) => data.variants.iter_mut().for_each(|variant| mark(&mut variant.fields)),
        Data::Union(_) => {}
    }
    let rkyv = quote!(::epicserver::__private::rkyv);
    found.then(|| {
        quote! {
            #[rkyv(serialize_bounds(__S: #rkyv::ser::Writer + #rkyv::ser::Allocator, __S::Error: #rkyv::rancor::Source))]
            #[rkyv(deserialize_bounds(__D::Error: #rkyv::rancor::Source))]
            #[rkyv(bytecheck(bounds(__C: #rkyv::validation::ArchiveContext, __C::Error: #rkyv::rancor::Source)))]
        }
    })
}

/// `MethodError`, which wraps the marked fields.
fn method_error(input: &DeriveInput, nested: &[Nested]) -> TokenStream {
    let private = private();
    let ident = &input.ident;
    let (implemented, names, conditions) = input.generics.split_for_impl();
    let body = if nested.is_empty() { quote!(self) } else { wrap(nested) };
    quote_spanned! {ident.span()=>
        #[automatically_derived]
        impl #implemented #private::MethodError for #ident #names #conditions {
            fn nested(self) -> Self {
                #body
            }
        }
    }
}

/// Binds each marked field by its own pattern, so that any mix of variants and fields works.
fn wrap(nested: &[Nested]) -> TokenStream {
    let private = private();
    let mut variants: Vec<(Option<&Ident>, Vec<&Member>)> = Vec::new();
    for mark in nested {
        match variants.last_mut() {
            Some((variant, members)) if *variant == mark.variant.as_ref() => members.push(&mark.member),
            _ => variants.push((mark.variant.as_ref(), vec![&mark.member])),
        }
    }
    let arms = variants.into_iter().map(|(variant, members)| {
        let path = variant.map_or_else(|| quote!(Self), |variant| quote!(Self::#variant));
        let bound: Vec<_> = (0..members.len()).map(|number| format_ident!("nested_{number}")).collect();
        quote! {
            #path { #(#members: #bound,)* .. } => {
                #(#private::nest(#bound);)*
            }
        }
    });
    quote! {
        let mut error = self;
        #[allow(unreachable_patterns)]
        match &mut error {
            #(#arms)*
            _ => {}
        }
        error
    }
}
