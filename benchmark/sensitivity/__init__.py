"""Which layers of a model its reliability is sensitive to, and what protecting the worst of them gives back."""
