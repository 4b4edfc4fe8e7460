"""The sparse path of training: only what a token keeps is decoded, differentiated and written back."""
